//! The end of a trial before its time: by a signal, or because all is done.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::sys;

/// What CI, a terminal and a person send to what is to end.
const ENDING: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// Whether the trial is over, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TrialStage {
    #[default]
    GoingOn,
    Done,
    By(Signal),
}

/// What the clients and the one who swaps go by.
#[derive(Debug, Default)]
pub struct Ending {
    stage: Mutex<TrialStage>,
    changed: Condvar,
}

impl Ending {
    /// From now on a signal ends the trial, and not hotswap. Call it before any thread starts: it blocks the signals.
    ///
    /// # Errors
    /// Only if the process is out of threads.
    pub fn by_signals() -> Result<Arc<Self>> {
        let ending = Arc::new(Self::default());
        // nohup(1) asks for a trial that outlives its terminal
        let ignored = sys::is_ignored(Signal::SIGHUP);
        let taken = ENDING.into_iter();
        let taken = taken.filter(|signal| *signal != Signal::SIGHUP || !ignored);
        let mask: SigSet = taken.collect();
        mask.thread_block().context("cannot block signals")?;
        let told = Arc::clone(&ending);
        thread::Builder::new()
            .spawn(move || {
                if let Ok(signal) = mask.wait() {
                    told.become_over(TrialStage::By(signal));
                }
            })
            .context("cannot start a thread")?;
        Ok(ending)
    }

    /// Every client ends with the request it is at.
    pub fn close(&self) {
        self.become_over(TrialStage::Done);
    }

    fn become_over(&self, stage: TrialStage) {
        let mut current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == TrialStage::GoingOn {
            *current = stage;
        }
        self.changed.notify_all();
    }

    /// The signal that has ended it.
    pub fn signal(&self) -> Option<Signal> {
        match *self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            TrialStage::By(signal) => Some(signal),
            TrialStage::GoingOn | TrialStage::Done => None,
        }
    }

    /// Lets time pass; false as soon as the trial is over.
    pub fn wait(&self, time: Duration) -> bool {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self
            .changed
            .wait_timeout_while(stage, time, |stage| *stage == TrialStage::GoingOn);
        let (stage, _) = result.unwrap_or_else(PoisonError::into_inner);
        *stage == TrialStage::GoingOn
    }
}
