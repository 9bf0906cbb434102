//! Things that a word's images are compared with.

/// Names of things that look unlike each other and that models of images know.
pub(super) const THINGS: [&str; 48] = [
    "airplane", "apple", "baby", "bed", "bear", "beach", "bicycle", "bird", "boat", "book", "bottle", "bridge", "cake",
    "car", "cat", "chair", "church", "city", "computer", "cow", "dog", "face", "fish", "flower", "forest", "frog",
    "guitar", "gun", "horse", "house", "lion", "man", "mountain", "pizza", "poster", "rifle", "robot", "sheep", "shoe",
    "soldier", "star", "street", "table", "text", "train", "tree", "truck", "woman",
];
