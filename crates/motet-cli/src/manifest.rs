//! `manifest.json`: what a folder of models says about them beyond their calls.

use std::collections::BTreeMap;
use std::path::Path;

use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use serde::Deserialize;

use crate::compare::Tolerance;

/// The models of a folder.
#[derive(Deserialize, Default)]
pub struct Manifest {
    #[serde(rename = "fixtures")]
    pub entries: Vec<Entry>,
}

/// A model.
#[derive(Deserialize, Clone)]
pub struct Entry {
    pub file: String,
    #[serde(default)]
    pub group: String,
    /// Files with calls.
    #[serde(default)]
    pub calls: Vec<String>,
    /// For an output dtype's name: relative and absolute tolerance.
    #[serde(default)]
    tol: BTreeMap<String, (f64, f64)>,
}

impl Manifest {
    /// The manifest of a folder; empty where there is none.
    pub fn read(folder: &Path) -> Result<Manifest> {
        let path = folder.join("manifest.json");
        let error = |message: String| Error::file(path.display().to_string(), message);
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Manifest::default()),
            text => text.map_err(|e| error(format!("cannot read the file: {e}")))?,
        };
        serde_json::from_str(&text).map_err(|e| error(format!("not a manifest: {e}")))
    }

    /// What it says about a file; for a file that it does not know, that it may be checked with
    /// the tolerances of [`Tolerance::default_for`].
    pub fn entry(&self, file: &str) -> Entry {
        let known = self.entries.iter().find(|entry| entry.file == file);
        known.cloned().unwrap_or_else(|| Entry {
            file: file.to_owned(),
            group: String::new(),
            calls: Vec::new(),
            tol: BTreeMap::new(),
        })
    }
}

impl Entry {
    /// Whether reading or calling the model must fail.
    pub fn must_be_refused(&self) -> bool {
        self.group == "reject"
    }

    /// How far outputs of this dtype may be off.
    pub fn tolerance(&self, dtype: Dtype) -> Tolerance {
        match self.tol.get(dtype.name()) {
            Some(&(relative, absolute)) => Tolerance { relative, absolute },
            None => Tolerance::default_for(dtype),
        }
    }
}
