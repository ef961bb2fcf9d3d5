"""The shared core: encoders, losses, trainers, data loading, evaluation and evidence."""
