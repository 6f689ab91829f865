//! Why a message was not decoded.

use jiter::{JiterError, JiterErrorType};

/// Why these bytes were not decoded, and where.
///
/// Never a verdict on the message: Python's decoder may still accept it, or refuse it with
/// an error of its own. The caller asks that decoder next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError {
    /// What was met.
    pub kind: DecodeErrorKind,
    /// The offset in bytes, from the start of the bytes that were passed in.
    pub index: usize,
}

/// What made a decoder stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// Not JSON, or JSON that jiter refuses: `NaN`, a lone surrogate, 200 levels.
    Json,
    /// Bytes that are not UTF-8.
    Utf8,
    /// A key `__type__`, which kombu turns into a value of another type.
    Extension,
    /// An integer that may be longer than the interpreter is configured to read.
    LongInteger,
    /// Base64 that is not in canonical form.
    Base64,
    /// A field that must be there is not.
    Missing,
    /// A field holds a value of a type that is never sent.
    WrongType,
    /// The body is compressed.
    Compressed,
    /// The body travels in an encoding other than base64 and text.
    BodyEncoding,
    /// Neither a `bytes` nor a `str` that UTF-8 can hold.
    Input,
}

impl DecodeErrorKind {
    /// The name under which Python code sees this kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Utf8 => "utf-8",
            Self::Extension => "extension",
            Self::LongInteger => "long-integer",
            Self::Base64 => "base64",
            Self::Missing => "missing",
            Self::WrongType => "wrong-type",
            Self::Compressed => "compressed",
            Self::BodyEncoding => "body-encoding",
            Self::Input => "input",
        }
    }

    /// This kind, met at `index`.
    #[must_use]
    pub const fn at(self, index: usize) -> DecodeError {
        DecodeError { kind: self, index }
    }
}

impl From<JiterError> for DecodeError {
    fn from(error: JiterError) -> Self {
        let kind = match error.error_type {
            JiterErrorType::WrongType { .. } => DecodeErrorKind::WrongType,
            JiterErrorType::JsonError(_) => DecodeErrorKind::Json,
        };
        kind.at(error.index)
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "not decoded: {} at byte {}",
            self.kind.name(),
            self.index
        )
    }
}

impl std::error::Error for DecodeError {}
