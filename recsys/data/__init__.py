"""Files of recommender data -> `Interactions`; their checks, splits and a generated example."""
