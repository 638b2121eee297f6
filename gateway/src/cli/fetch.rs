//! Getting model files, with a progress bar on standard error.

use std::path::{Path, PathBuf};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use models::Card;

use super::{Failure, print};
use crate::config::{Config, ModelRule, make_private_dir};

/// Where pulled weights are kept.
fn model_dir(config: &Config) -> PathBuf {
    config.model.dir.clone().unwrap_or_else(|| config.data.dir.join("models"))
}

/// Card and weight file of a configured model; fetches its files if they are not there.
pub(super) fn configured_model(
    rule: &ModelRule,
    config: &Config,
    bars: &MultiProgress,
) -> Result<(Card, PathBuf), Failure> {
    let id = &rule.id;
    if let Some(path) = &rule.path {
        let mut card = match models::card(id) {
            Some(card) => card,
            None => Card::from_file(path).map_err(|e| format!("model.path = {:?}: {e}", path.display()))?,
        };
        card.id.clone_from(id);
        return Ok((card, path.clone()));
    }
    let card = models::card(id).ok_or_else(|| unknown(id))?;
    let path = fetch(&card, &model_dir(config), bars)?;
    Ok((card, path))
}

/// `spillway pull`.
pub(super) fn pull(model: &str, config: &Config) -> Result<(), Failure> {
    make_private_dir(&config.data.dir)?;
    let dir = model_dir(config);
    let path = match models::card(model) {
        Some(card) => fetch(&card, &dir, &MultiProgress::new())?,
        None if Path::new(model).is_file() => models::import(Path::new(model), &dir)?,
        None => return Err(unknown(model).into()),
    };
    print(format_args!("{}", path.display()))?;
    Ok(())
}

fn unknown(id: &str) -> String {
    let known: Vec<String> = models::cards().into_iter().map(|card| card.id).collect();
    format!("no model card named {id:?} and no such file; known cards: {}", known.join(", "))
}

fn fetch(card: &Card, dir: &Path, bars: &MultiProgress) -> Result<PathBuf, Failure> {
    let bar = bars.add(ProgressBar::new(card.bytes));
    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.expect("the template is valid"));
    bar.set_message(format!("fetching {}", card.name));
    let path = models::pull(card, dir, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    Ok(path)
}
