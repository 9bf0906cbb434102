//! Photos, captions, class pictures, and what is said of them.
