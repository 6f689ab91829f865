//! Acknowledgements in groups, for Python.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hybrid_core::amqp::AckWindow;
use pyo3::prelude::*;

/// The deliveries of one channel that the broker waits for.
///
/// Converts types and errors for [`hybrid_core::amqp::AckWindow`], and decides nothing.
#[pyclass(name = "AckWindow", module = "hybrid._rust", frozen)]
pub(crate) struct PyAckWindow {
    inner: Mutex<AckWindow>,
}

impl PyAckWindow {
    fn lock(&self) -> MutexGuard<'_, AckWindow> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyAckWindow {
    #[new]
    fn new() -> Self {
        Self {
            inner: Mutex::new(AckWindow::new()),
        }
    }

    fn delivered(&self, delivery_tag: u64) -> bool {
        self.lock().delivered(delivery_tag)
    }

    fn settle(&self, delivery_tag: u64) -> bool {
        self.lock().settle(delivery_tag)
    }

    fn forget(&self, delivery_tag: u64) -> bool {
        self.lock().forget(delivery_tag)
    }

    fn flush(&self) -> Vec<(u64, bool)> {
        let acks = self.lock().flush();
        acks.into_iter()
            .map(|ack| (ack.delivery_tag, ack.multiple))
            .collect()
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }
}
