"""TRL's trainers on token ids that Nexa made, and with the reference model that the recipe means."""
