//! The device that generating models run on, and the memory of it that their caches get.

use engine::EngineConfig;
use models::{ModelConfig, ModelKind, Place};

use super::Failure;
use crate::config::{Config, DeviceChoice};

/// Keys and values are kept as 16-bit floats.
const BYTES_PER_VALUE: usize = 2;

/// Opens the device of the configuration, and says so; without one, `auto` is the CPU.
pub(super) fn open(config: &Config) -> Result<Place, Failure> {
    let choice = config.engine.device;
    let place = match choice {
        DeviceChoice::Cpu => Place::Cpu,
        DeviceChoice::Cuda(index) => {
            Place::cuda(index).map_err(|error| format!("engine.device = \"{choice}\": {error}"))?
        }
        DeviceChoice::Auto => Place::cuda(0).unwrap_or_else(|error| {
            // Who built for a device expects one.
            if cfg!(feature = "cuda") {
                tracing::warn!("serving on the CPU: {error}");
            } else {
                tracing::info!("serving on the CPU: {error}");
            }
            Place::Cpu
        }),
    };
    tracing::info!("generating on {place}");
    Ok(place)
}

/// The engine's settings for a model that is loaded; each generating model has a cache of its own.
pub(super) fn engine_config(
    config: &Config,
    shape: &ModelConfig,
    place: &Place,
) -> Result<EngineConfig, Failure> {
    let section = &config.engine;
    let bytes_per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * BYTES_PER_VALUE;
    Ok(EngineConfig {
        max_num_seqs: section.max_num_seqs,
        max_batched_tokens: section.max_batched_tokens,
        prefill_chunk: section.prefill_chunk,
        block_size: section.block_size,
        num_blocks: cache_bytes(config, place)? / (bytes_per_token * section.block_size),
        max_waiting: section.max_waiting,
        prefix_cache: section.prefix_cache,
        stream_capacity: section.stream_capacity,
        grammar: config.grammar.limits(),
        sharing: config.tiers.sharing(),
    })
}

fn cache_bytes(config: &Config, place: &Place) -> Result<usize, Failure> {
    let Some(free) = place.free_memory()? else {
        return Ok(config.engine.kv_cache_mib << 20);
    };
    if config.engine.cuda_kv_cache_mib > 0 {
        return Ok(config.engine.cuda_kv_cache_mib << 20);
    }
    let generates = |id: &str| models::card(id).is_some_and(|card| card.kind == ModelKind::Chat);
    if config.served().iter().filter(|rule| generates(&rule.id)).count() > 1 {
        return Err(
            "engine.cuda_kv_cache_mib = 0 gives one model all memory: set it where several generate".into()
        );
    }
    // The rest is for the buffers of a step.
    Ok(free / 10 * 9)
}
