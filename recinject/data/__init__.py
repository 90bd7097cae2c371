"""From anybody's log to dense integers: readers, cleaning, splitting, negatives, a simulator."""
