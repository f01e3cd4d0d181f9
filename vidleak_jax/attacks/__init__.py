"""From a leak to a recovery; never sees a data set or the truth."""
