//! Whether classes, functions and objects still are what they were.

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFunction, PyList, PyType};

/// Classes, functions and objects, and what they were when this was made.
///
/// Looking all attributes up that matter would cost more than is saved by leaving them out. So
/// pointers are compared here. All that they point to is kept alive, so that nothing else gets the
/// place of it.
#[pyclass(name = "Unchanged", module = "hybrid._rust", frozen)]
pub(crate) struct PyUnchanged {
    classes: Vec<(Py<PyType>, Option<Version>)>,
    functions: Vec<(Py<PyFunction>, Py<PyAny>)>,
    objects: Vec<(Py<PyAny>, Py<PyType>)>,
    dicts: Vec<(Py<PyDict>, Vec<Entry>)>,
    lists: Vec<(Py<PyList>, Vec<Py<PyAny>>)>,
}

/// A key and its value.
type Entry = (Py<PyAny>, Py<PyAny>);

/// What tells one state of a class from another: the number that `CPython` gives it when an attribute
/// is looked up, and takes away when the class or one of its bases is changed. It is what `CPython`
/// itself relies on for what it has looked up before.
type Version = (core::ffi::c_ulong, core::ffi::c_uint);

fn version(class: &Bound<'_, PyType>) -> Version {
    let class = class.as_type_ptr();
    // SAFETY: the class is alive, and whoever holds the GIL is the only one who reads or changes it.
    unsafe {
        let flags = ffi::PyType_GetFlags(class);
        let is_valid = flags & ffi::Py_TPFLAGS_VALID_VERSION_TAG;
        (is_valid, (*class).tp_version_tag)
    }
}

fn has_code(function: &Bound<'_, PyFunction>, before: &Py<PyAny>) -> bool {
    // SAFETY: it is a function, and alive; its code is borrowed, and compared only.
    unsafe { ffi::PyFunction_GetCode(function.as_ptr()) == before.as_ptr() }
}

fn has_class(object: &Bound<'_, PyAny>, before: &Py<PyType>) -> bool {
    // SAFETY: the object is alive; its class is borrowed, and compared only.
    unsafe { ffi::Py_TYPE(object.as_ptr()).cast() == before.as_ptr() }
}

fn has_entries(dict: &Bound<'_, PyDict>, before: &[Entry]) -> bool {
    let (mut position, mut key, mut value) = (0, ptr::null_mut(), ptr::null_mut());
    let mut expected = before.iter();
    // SAFETY: the dictionary is alive, and nobody changes it while the GIL is held; its keys and
    // values are borrowed, and compared only.
    while unsafe {
        ffi::PyDict_Next(
            dict.as_ptr(),
            &raw mut position,
            &raw mut key,
            &raw mut value,
        )
    } != 0
    {
        let is_same = |(name, found): &Entry| key == name.as_ptr() && value == found.as_ptr();
        if !expected.next().is_some_and(is_same) {
            return false;
        }
    }
    expected.next().is_none()
}

fn has_items(list: &Bound<'_, PyList>, before: &[Py<PyAny>]) -> bool {
    list.len() == before.len() && list.iter().zip(before).all(|(item, found)| item.is(found))
}

#[pymethods]
impl PyUnchanged {
    #[new]
    fn new(
        classes: Vec<Bound<'_, PyType>>,
        functions: Vec<Bound<'_, PyFunction>>,
        objects: Vec<Bound<'_, PyAny>>,
        dicts: Vec<Bound<'_, PyDict>>,
        lists: Vec<Bound<'_, PyList>>,
    ) -> PyResult<Self> {
        let mut dicts = dicts;
        for object in &objects {
            dicts.push(object.getattr("__dict__")?.cast_into()?);
        }
        let classes = classes.into_iter().map(|class| {
            class.getattr("__init__")?; // it has a number once something was looked up in it
            let found = version(&class);
            // Before 3.11, a number that is not valid any more stays where it was.
            let needs_flag = class.py().version_info() < (3, 11);
            let is_valid = found.1 != 0 && (found.0 != 0 || !needs_flag);
            Ok((class.unbind(), is_valid.then_some(found)))
        });
        let functions = functions.into_iter().map(|function| {
            let code = function.getattr("__code__")?;
            Ok((function.unbind(), code.unbind()))
        });
        let objects = objects.into_iter().map(|object| {
            let class = object.get_type();
            (object.unbind(), class.unbind())
        });
        let dicts = dicts.into_iter().map(|dict| {
            let entries = dict
                .iter()
                .map(|(key, value)| (key.unbind(), value.unbind()));
            (dict.clone().unbind(), entries.collect())
        });
        let lists = lists.into_iter().map(|list| {
            let items = list.iter().map(Bound::unbind).collect();
            (list.unbind(), items)
        });
        Ok(Self {
            classes: classes.collect::<PyResult<_>>()?,
            functions: functions.collect::<PyResult<_>>()?,
            objects: objects.collect(),
            dicts: dicts.collect(),
            lists: lists.collect(),
        })
    }

    fn holds(&self, py: Python<'_>) -> bool {
        let is_version =
            |(class, before): &(Py<PyType>, _)| Some(version(class.bind(py))) == *before;
        self.classes.iter().all(is_version)
            && self
                .functions
                .iter()
                .all(|(found, code)| has_code(found.bind(py), code))
            && self
                .objects
                .iter()
                .all(|(found, class)| has_class(found.bind(py), class))
            && self
                .dicts
                .iter()
                .all(|(found, entries)| has_entries(found.bind(py), entries))
            && self
                .lists
                .iter()
                .all(|(found, items)| has_items(found.bind(py), items))
    }
}
