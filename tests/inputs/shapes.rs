//! Widths that are no multiples of anything, prompts of every number.
