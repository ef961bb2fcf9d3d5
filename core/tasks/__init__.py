"""Tasks that belong to no domain: how samples are trained on, evaluated, embedded, searched."""
