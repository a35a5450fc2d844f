"""Backend `axolotl`: renders a recipe as an Axolotl configuration and trains it in Axolotl's own environment."""
