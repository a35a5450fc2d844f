"""An example of a Nexa plugin, in a package of its own."""
