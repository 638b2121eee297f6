//! The models of this process by name.

use std::time::Duration;

use engine::{Embedder, Engine};
use models::Card;

/// A model that is ready.
#[derive(Clone, Debug)]
pub enum Served {
    /// Generates text.
    Engine(Engine),
    /// Makes vectors, or scores pairs.
    Embedder(Embedder),
}

impl Served {
    /// What is known about it.
    pub fn card(&self) -> &Card {
        match self {
            Served::Engine(engine) => engine.card(),
            Served::Embedder(embedder) => embedder.card(),
        }
    }

    fn healthy(&self) -> bool {
        match self {
            Served::Engine(engine) => engine.healthy(),
            Served::Embedder(embedder) => embedder.healthy(),
        }
    }
}

/// All models, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    models: Vec<Served>,
}

impl Registry {
    /// A registry of these; their ids differ.
    pub fn new(models: Vec<Served>) -> Self {
        Self { models }
    }

    /// The model of this id.
    pub fn get(&self, id: &str) -> Option<&Served> {
        self.iter().find(|served| served.card().id == id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Served> {
        self.models.iter()
    }

    /// Whether all can serve.
    pub fn healthy(&self) -> bool {
        self.iter().all(Served::healthy)
    }

    /// Ends all of them; what still runs is cut off.
    pub fn shutdown(&self) {
        for served in self.iter() {
            match served {
                Served::Engine(engine) => engine.shutdown(Duration::ZERO),
                Served::Embedder(embedder) => embedder.shutdown(Duration::ZERO),
            };
        }
    }
}
