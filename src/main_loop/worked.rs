//! The environment and the directory of the last generation that served, for a restart that finds today's broken.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::Result;

use super::World;
use crate::proc;
use crate::server::environment::{self, Variables};
use crate::supervisor::Cause;

/// What a generation was started with, and served.
pub(super) struct Worked {
    variables: Variables,
    /// `--chdir`, kept open: it may be removed.
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
    pub(super) fn directory_that_worked(&mut self, cause: Cause) -> Option<PathBuf> {
        let named = self.server_config.chdir.as_ref();
        let named = named.filter(|named| cause == Cause::Restart && !named.is_dir())?;
        let path = proc::path_for_others(self.worked.as_ref()?.directory.as_ref()?);
        let text = format!(
            "cannot run in {}: not a directory; using the last one that worked",
            named.display()
        );
        self.warn(text);
        Some(path)
    }

    /// A generation that was started with these serves.
    pub(super) fn remember_worked(&mut self, variables: Variables) {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let directory = self.server_config.chdir.as_ref().and_then(|path| {
            let opened = File::options().read(true).custom_flags(flags).open(path);
            opened.ok().map(OwnedFd::from)
        });
        self.worked = Some(Worked {
            variables,
            directory,
        });
    }
}
