//! Celery's task messages: protocol 1, protocol 2, and the hybrid of both.
//!
//! | protocol | headers | body |
//! |---|---|---|
//! | 1 | without `task` | object: `task`, `id`, `args`, `kwargs`, `eta`, … |
//! | 2 | `task`, `id`, `eta`, … | array: args, kwargs, embed |
//! | hybrid | as protocol 2 | object with `args`, as protocol 1 |
//!
//! [`TaskMessage::split`] finds what a worker needs in order to hold a message for later, without
//! building any of it. See `celery.worker.strategy` for the rules and `celery.app.amqp` for what
//! producers send.

mod error;
pub mod json;
mod reader;
pub mod text;

use jiter::{Jiter, Peek};

pub use error::{DecodeError, DecodeErrorKind};
pub use reader::Reader;

/// The shape of a task message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Everything is in the body.
    One,
    /// Headers describe the task, the body has its arguments.
    Two,
    /// Headers as in protocol 2, a body as in protocol 1.
    Hybrid,
}

/// A task message, as spans of the JSON it came in. An absent field is `None`; `null` is a span.
#[derive(Debug, PartialEq, Eq)]
pub struct TaskMessage<'a> {
    /// How it was sent.
    pub protocol: Protocol,
    /// The name of the task, which is there.
    pub task: &'a [u8],
    /// The id of the task.
    pub id: Option<&'a [u8]>,
    /// When the task may start.
    pub eta: Option<&'a [u8]>,
    /// The positional arguments.
    pub args: Option<&'a [u8]>,
    /// The keyword arguments.
    pub kwargs: Option<&'a [u8]>,
    /// Callbacks, errbacks, chain and chord; protocol 2 only.
    pub embed: Option<&'a [u8]>,
}

impl<'a> TaskMessage<'a> {
    /// Splits the message with these `headers`, a JSON object, and this `body`.
    ///
    /// # Errors
    ///
    /// Those of [`json::check`], and [`DecodeErrorKind::Missing`] or
    /// [`DecodeErrorKind::WrongType`] for JSON that is no task message.
    pub fn split(headers: &'a [u8], body: &'a [u8]) -> Result<Self, DecodeError> {
        json::check(headers)?;
        json::check(body)?;

        let mut jiter = Jiter::new(headers);
        let [task, id, eta] = fields(&mut jiter, ["task", "id", "eta"])?;
        jiter.finish()?;

        let mut jiter = Jiter::new(body);
        let message = match (jiter.peek()?, task) {
            (Peek::Array, Some(task)) => {
                let [args, kwargs, embed] = elements(&mut jiter)?;
                Self {
                    protocol: Protocol::Two,
                    task,
                    id,
                    eta,
                    args,
                    kwargs,
                    embed,
                }
            }
            (Peek::Object, Some(task)) => {
                let [args, kwargs] = fields(&mut jiter, ["args", "kwargs"])?;
                if args.is_none() {
                    return Err(DecodeErrorKind::Missing.at(body.len()));
                }
                Self {
                    protocol: Protocol::Hybrid,
                    task,
                    id,
                    eta,
                    args,
                    kwargs,
                    embed: None,
                }
            }
            (Peek::Object, None) => {
                let names = ["task", "id", "eta", "args", "kwargs"];
                let [task, id, eta, args, kwargs] = fields(&mut jiter, names)?;
                let task = task.ok_or(DecodeErrorKind::Missing.at(body.len()))?;
                Self {
                    protocol: Protocol::One,
                    task,
                    id,
                    eta,
                    args,
                    kwargs,
                    embed: None,
                }
            }
            _ => return Err(DecodeErrorKind::WrongType.at(jiter.current_index())),
        };
        jiter.finish()?;
        Ok(message)
    }
}

/// The values of the fields `names` of an object; of several with one name, the last.
fn fields<'a, const N: usize>(
    jiter: &mut Jiter<'a>,
    names: [&str; N],
) -> Result<[Option<&'a [u8]>; N], DecodeError> {
    let mut values = [None; N];
    let mut next = jiter.next_object()?;
    while let Some(key) = next {
        let index = names.iter().position(|name| *name == key);
        let peek = jiter.peek()?;
        let value = skip(jiter, peek)?;
        if let Some(index) = index {
            values[index] = Some(value);
        }
        next = jiter.next_key()?;
    }
    Ok(values)
}

/// The three elements of a body of protocol 2.
fn elements<'a>(jiter: &mut Jiter<'a>) -> Result<[Option<&'a [u8]>; 3], DecodeError> {
    let mut values = [None; 3];
    let mut filled = 0;
    let mut next = jiter.next_array()?;
    while let Some(peek) = next {
        // Celery takes a body with the string "args" in it for a hybrid, and then refuses it.
        if filled == values.len() || peek == Peek::String {
            return Err(DecodeErrorKind::WrongType.at(jiter.current_index()));
        }
        values[filled] = Some(skip(jiter, peek)?);
        filled += 1;
        next = jiter.array_step()?;
    }
    if filled < values.len() {
        return Err(DecodeErrorKind::Missing.at(jiter.current_index()));
    }
    Ok(values)
}

/// Consumes a value and returns its span.
fn skip<'a>(jiter: &mut Jiter<'a>, peek: Peek) -> Result<&'a [u8], DecodeError> {
    let start = jiter.current_index();
    jiter.known_skip(peek)?;
    Ok(jiter.slice_to_current(start))
}
