//! Text for people that holds options and paths as data, so that each face names them in its own words.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Text for people. Options are named in it by their fields in [`TrainOptions`](crate::TrainOptions) and the other options
/// (`lr`, `class_prompt`): [`Display`](fmt::Display) writes these, [`Message::in_words`] what a face calls them.
///
/// ```
/// use portray::error::{Words, option};
///
/// struct Form;
/// impl Words for Form {
///     fn option(&self, name: &str) -> String {
///         match name {
///             "lr" => "Learning rate".into(),
///             other => other.into(),
///         }
///     }
/// }
///
/// let message = option("lr") + " 0: must be above 0";
/// assert_eq!(message.to_string(), "lr 0: must be above 0");
/// assert_eq!(message.in_words(&Form), "Learning rate 0: must be above 0");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Option(Cow<'static, str>),
    Path(String),
    Remedy(Remedy),
}

/// Advice that depends on how the reader starts jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Begin the training anew instead of resuming it.
    StartAnew,
}

/// How a face names what a [`Message`] holds as data. The defaults are the library's own words.
pub trait Words {
    /// Name of the option whose field is called `name`.
    fn option(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Name of the file or folder at `path`.
    fn path(&self, path: &str) -> String {
        path.to_owned()
    }

    /// Words of `remedy`, as the end of a sentence.
    fn remedy(&self, remedy: Remedy) -> String {
        match remedy {
            Remedy::StartAnew => format!("start again without {}", self.option("resume")),
        }
    }
}

/// The library's words: options by their fields' names.
#[derive(Clone, Copy, Debug, Default)]
pub struct FieldNames;

impl Words for FieldNames {}

/// Mention of the option whose field is called `name`.
pub fn option(name: impl Into<Cow<'static, str>>) -> Message {
    Message(vec![Piece::Option(name.into())])
}

/// Mention of the file or folder at `path`.
pub fn path(path: impl AsRef<Path>) -> Message {
    Message(vec![Piece::Path(path.as_ref().display().to_string())])
}

impl Message {
    /// The text with everything named in `words`.
    pub fn in_words(&self, words: &dyn Words) -> String {
        let said = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Option(name) => words.option(name),
            Piece::Path(path) => words.path(path),
            Piece::Remedy(remedy) => words.remedy(*remedy),
        };
        self.0.iter().map(said).collect()
    }

    /// `messages` with `separator` between them.
    pub fn join<M: Into<Message>>(messages: impl IntoIterator<Item = M>, separator: &str) -> Message {
        let mut joined = Message::default();
        for (i, message) in messages.into_iter().enumerate() {
            if i > 0 {
                joined = joined + separator;
            }
            joined = joined + message;
        }
        joined
    }
}

/// Words of the library.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(&FieldNames))
    }
}

/// A string, in the library's words.
impl serde::Serialize for Message {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<String> for Message {
    fn from(text: String) -> Message {
        Message(vec![Piece::Text(text)])
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Message {
        text.to_owned().into()
    }
}

impl From<&Message> for Message {
    fn from(message: &Message) -> Message {
        message.clone()
    }
}

impl From<Remedy> for Message {
    fn from(remedy: Remedy) -> Message {
        Message(vec![Piece::Remedy(remedy)])
    }
}

impl<M: Into<Message>> std::ops::Add<M> for Message {
    type Output = Message;

    fn add(mut self, more: M) -> Message {
        self.0.extend(more.into().0);
        self
    }
}

/// Makes a [`Message`] of parts that each become one: format strings in parentheses are formatted.
macro_rules! message {
    ($($part:expr),+ $(,)?) => { $crate::error::Message::default() $(+ $part)+ };
}
pub(crate) use message;
