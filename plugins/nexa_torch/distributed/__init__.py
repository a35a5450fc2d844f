"""Several processes as one trainer: who they are, how they meet, and how a model is spread over them.

`environment` reads rank and world size from what started this process, `devices` chooses what it
computes on, `process_group` joins the others, `strategy` holds replicated and sharded training, and
`checkpoint` saves and loads what is spread over ranks.
"""
