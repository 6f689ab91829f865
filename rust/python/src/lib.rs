//! `hybrid._rust`: [`hybrid_core`] for Python.
//!
//! Converts types and errors, and decides nothing. Nothing but `task_function`, which says why, calls
//! a Python callable: a callback could switch greenlets under a Rust frame.

mod ack_window;
mod amqp;
mod amqp_encode;
mod amqp_error;
mod amqp_value;
mod clock;
mod decode;
mod decode_value;
mod encode;
mod event_log;
mod keys;
mod packing;
mod slab;
mod task_function;
mod timer;
mod unchanged;

// The GIL keeps what is being encoded as it is: dicts and lists of the user are walked in place. A
// free-threaded interpreter switches it on when it imports this module, and says so.
#[pyo3::pymodule(gil_used = true)]
mod _rust {
    #[pymodule_export]
    use crate::ack_window::PyAckWindow;
    #[pymodule_export]
    use crate::amqp::{PyAmqpDelivery, PyAmqpReader, decode_properties};
    #[pymodule_export]
    use crate::amqp_encode::{
        encode_ack, encode_acks, encode_nack, encode_publish, encode_qos, encode_reject,
    };
    #[pymodule_export]
    use crate::amqp_error::PyAmqpError;
    #[pymodule_export]
    use crate::decode::{PyDecodeError, PyDelivery, decode_envelope, loads};
    #[pymodule_export]
    use crate::encode::{PyJsonText, dumps, encode_base64};
    #[pymodule_export]
    use crate::event_log::PyEventLog;
    #[pymodule_export]
    use crate::packing::PyPacking;
    #[pymodule_export]
    use crate::slab::{PySlab, SlabFullError};
    #[pymodule_export]
    use crate::task_function::PyTaskFunction;
    #[pymodule_export]
    use crate::timer::{PyTimerEntry, PyTimerHeap};
    #[pymodule_export]
    use crate::unchanged::PyUnchanged;

    /// The one version number of the project, from Cargo's workspace.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
