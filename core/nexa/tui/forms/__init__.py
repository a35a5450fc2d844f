"""Recipe forms without a screen: fields from the JSON Schema, edits, YAML text, equivalent commands."""
