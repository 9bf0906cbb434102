//! Models of other tools and ages, whole and damaged.
