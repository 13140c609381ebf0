//! Result rows: one JSON object a line, in the file as soon as it is known.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use serde_json::{Map, Value};

/// Where rows go: a file that they are appended to, or nowhere.
#[derive(Debug)]
pub struct Rows {
    file: Option<File>,
    step: String,
}

impl Rows {
    /// Rows of this step for the file at `path`, which is made where it is not there.
    ///
    /// # Errors
    /// A file that cannot be written, with its path.
    pub fn new(path: Option<&Path>, step: &str) -> io::Result<Self> {
        let open = |path: &Path| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        Ok(Self { file: path.map(open).transpose()?, step: step.to_string() })
    }

    /// Adds a row: the step, `status` (passed, failed, timeout or not run), and these fields.
    ///
    /// # Errors
    /// A file that cannot be written any longer.
    pub fn append(&mut self, status: &str, fields: Map<String, Value>) -> io::Result<()> {
        let mut row = Map::new();
        row.insert("step".into(), self.step.as_str().into());
        row.insert("status".into(), status.into());
        row.extend(fields);
        match &mut self.file {
            // One write a line, so that whatever ends this process leaves whole lines.
            Some(file) => file.write_all(format!("{}\n", Value::Object(row)).as_bytes()),
            None => Ok(()),
        }
    }
}
