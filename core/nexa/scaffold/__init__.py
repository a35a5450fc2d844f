"""New plugin packages, made from the templates beside this module."""
