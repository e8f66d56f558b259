"""What people and programs read: text and JSON of results. Nothing is computed here."""
