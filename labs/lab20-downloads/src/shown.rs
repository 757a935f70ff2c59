//! What fetch shows while downloads are under way: a bar for each file on a terminal, plain lines in a pipe.

use std::{
    io::{IsTerminal, stdout},
    time::Instant,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use shared::Screen;

use crate::{job::Job, timeline::short};

/// What was said of each download: a bar on a terminal, lines as in the lecture's log everywhere.
pub struct Shown {
    start: Instant,
    bars: MultiProgress,
    rows: Vec<(ProgressBar, bool, bool)>,
}

impl Shown {
    pub fn new(jobs: &[Job]) -> Shown {
        let visible = stdout().is_terminal();
        let bars = MultiProgress::with_draw_target(if visible {
            ProgressDrawTarget::stdout()
        } else {
            ProgressDrawTarget::hidden()
        });
        let style = ProgressStyle::with_template("{prefix:12}  [{bar:30}] {bytes}/{total_bytes}");
        let style = style.map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
        let row = |job: &Job| {
            let bar = bars.add(ProgressBar::new(0).with_style(style.clone()));
            bar.set_prefix(short(&job.url.name));
            (bar, false, false)
        };
        let rows = jobs.iter().map(row).collect();
        Shown { start: Instant::now(), bars, rows }
    }

    /// Says what has begun or ended since.
    pub fn update(&mut self, jobs: &[Job], screen: &mut Screen) {
        for (job, (bar, begun, ended)) in jobs.iter().zip(&mut self.rows) {
            let state = job.state();
            let mut say = |text: String, moment: Option<Instant>| {
                let since = moment.unwrap_or_else(Instant::now).duration_since(self.start).as_secs_f64();
                let line = screen.hang(&format!("{since:6.2} {:<9} ", state.thread), &text);
                self.bars.suspend(|| screen.line(line));
            };
            if state.asked.is_some() && !*begun {
                *begun = true;
                say(format!("Downloading {}", job.url), state.asked);
            }
            bar.set_length(state.size.unwrap_or(state.before + state.received));
            bar.set_position(state.before + state.received);
            if state.ended.is_some() && !*ended {
                *ended = true;
                let told = match &state.failure {
                    Some(failure) => format!("Failed {}: {failure}", job.url.name),
                    None if state.received == 0 && state.asked.is_some() && state.size.is_none() => {
                        format!("{} is there already: {} bytes", job.url.name, state.before)
                    }
                    None => {
                        let checksum = if state.checksum { "the checksum holds" } else { "no checksum was told" };
                        let before = if state.before > 0 { format!(" after {}", state.before) } else { String::new() };
                        format!("Finished downloading {}: {} bytes{before}, {checksum}", job.url.name, state.received)
                    }
                };
                say(told, state.ended);
            }
        }
    }

    /// The bars go, the lines stay.
    pub fn clear(&self) {
        let _ = self.bars.clear(); // the terminal is gone
    }
}
