"""Run events: append-only JSON lines, one writer a file; the writer is standard library only.

Every record has "ts" (unix seconds) and "type". Rank 0 writes all types; other ranks write start,
message, system, heartbeat and end.

start       attempt, rank, world_size, host, pid
progress    phase, step, total_steps; phases: loading, waiting, tokenizing, training, evaluating, saving, sampling
metrics     step, values: {loss, lr, grad_norm, tokens_per_second, tokens, step_seconds, memory_bytes, …}
eval        step, values: {eval_loss, perplexity, …}
sample      step, prompt, text
checkpoint  step, name, hash, bytes
message     level (debug, info, warning, error), text
system      cpu_percent, rss_bytes, machine_cpu_percent, machine_memory_bytes, machine_memory_total_bytes,
            gpus [{gpu, name, utilization_percent, memory_bytes, memory_total_bytes, …}]; every 10 seconds
heartbeat   nothing more; every 10 seconds while the worker lives
end         state (completed, stopped, failed), step, message

Steps of the phases in PREPARATION count that phase's own work (files, documents), not optimizer steps.
"""

PREPARATION = frozenset({"loading", "tokenizing", "waiting"})
