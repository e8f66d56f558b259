"""The circuit: operations on exact quantities at one generation step, as a DAG."""
