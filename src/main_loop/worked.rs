//! The environment and the directory of the last generation that served, for a restart that finds today's broken.

use std::fs;
use std::os::fd::OwnedFd;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::World;
use crate::handoff;
use crate::proc::open_directory;
use crate::server::environment::{self, Variables};
use crate::supervisor::Cause;

/// What a generation was started with, and served.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Worked {
    variables: Variables,
    /// `--chdir`, kept open: it may be removed.
    #[serde(with = "handoff::optional_descriptor")]
    directory: Option<OwnedFd>,
}

impl World {
    /// The variables for a generation; a restart does not fail for an env file that has been broken meanwhile.
    ///
    /// # Errors
    /// An error in the env file.
    pub(super) fn variables(&mut self, cause: Cause) -> Result<Variables> {
        match (environment::inherited_by(&self.server_config), &self.worked) {
            (Err(error), Some(worked)) if cause == Cause::Restart => {
                let variables = worked.variables.clone();
                self.warn(format!("{error}; the variables that worked last are used"));
                Ok(variables)
            }
            (variables, _) => Ok(variables?),
        }
    }

    /// Where a generation is to run, if not in the directory that the options name.
    pub(super) fn directory_that_worked(&mut self, cause: Cause) -> Option<OwnedFd> {
        let named = self.server_config.chdir.as_ref();
        let named = named.filter(|_| cause == Cause::Restart)?;
        let why = match fs::metadata(named) {
            Ok(found) if found.is_dir() => return None,
            Ok(_) => "not a directory".to_owned(),
            Err(error) => error.to_string(),
        };
        let directory = self.worked.as_ref()?.directory.as_ref()?;
        let directory = directory.try_clone().ok()?;
        let named = named.display();
        self.warn(format!(
            "cannot run in {named}: {why}; using the last directory that worked"
        ));
        Some(directory)
    }

    /// A generation that was started with these serves.
    pub(super) fn remember_worked(&mut self, variables: Variables) {
        let named = self.server_config.chdir.as_ref();
        let directory = named.and_then(|path| Some(open_directory(path).ok()?.into()));
        // it may have been started in this one again
        let before = self.worked.take().and_then(|before| before.directory);
        let directory = directory.or(before);
        self.worked = Some(Worked {
            variables,
            directory,
        });
    }
}
