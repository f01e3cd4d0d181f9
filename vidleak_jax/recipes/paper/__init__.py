"""One recipe for each result of the paper."""
