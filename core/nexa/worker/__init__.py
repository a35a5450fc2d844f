"""The worker side of Nexa: what a training process needs, standard library only."""
