"""The prover: for all operands, from the module's own graph, with every rounding bounded."""
