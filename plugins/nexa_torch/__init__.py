"""Training engine in plain PyTorch: causal language models, pretraining and supervised fine-tuning."""
