"""Knowledge distillation: record a teacher, check and read what was recorded, train students from it."""
