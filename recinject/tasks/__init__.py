"""What to ask: one sampler a task; samplers choose integers and never write words."""
