"""The run store: run directories, their attempts, and the state computed from them."""
