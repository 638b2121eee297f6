//! What all launches share: memory, order, capture and replay, and refusals.

use half::bf16;
use kernels::cuda::linear::{DeviceMatrix, Product, matmul};
use kernels::cuda::rows::{RowsOut, silu_mul};
use kernels::cuda::{CudaError, Device, DeviceBuffer};

use super::{device, rng, values};
use crate::support::Rng;

const WIDTH: usize = 64;

/// Two launches, of which the second reads what the first wrote.
struct Chain {
    device: Device,
    x: DeviceBuffer<bf16>,
    inner: DeviceBuffer<bf16>,
    weights: DeviceMatrix,
    y: DeviceBuffer<f32>,
}

impl Chain {
    fn new(rng: &mut Rng) -> Self {
        let device = device();
        Self {
            x: device.zeros(2 * WIDTH).expect("x"),
            inner: device.zeros(WIDTH).expect("inner"),
            weights: DeviceMatrix::bf16(&device, 8, WIDTH, &values(rng, 8 * WIDTH, 0.2)).expect("weights"),
            y: device.zeros(8).expect("y"),
            device,
        }
    }

    fn launch(&self) -> Result<(), CudaError> {
        silu_mul(&self.x, 1, WIDTH, &RowsOut::Bf16(&self.inner))?;
        matmul(&self.inner, 1, &self.weights, &Product::F32(&self.y))
    }
}

#[test]
fn a_graph_does_again_what_was_launched_on_what_its_buffers_hold_now() {
    let mut rng = rng(31);
    let mut chain = Chain::new(&mut rng);
    let graph = chain.device.capture(|| chain.launch()).expect("captured");
    assert_eq!(chain.y.to_vec().expect("y"), [0.0; 8], "capturing carries nothing out");
    for _ in 0..3 {
        chain.x.write(&values(&mut rng, 2 * WIDTH, 1.0)).expect("x");
        graph.launch().expect("replayed");
        let replayed = chain.y.to_vec().expect("y");
        chain.launch().expect("launched");
        let launched = chain.y.to_vec().expect("y");
        assert_eq!(replayed, launched);
        assert!(launched.iter().any(|y| *y != 0.0), "{launched:?}");
    }
    // Its memory stays as long as it does: a sanitizer would see what is not so.
    drop(chain);
    graph.launch().expect("replayed without its buffers");
}

#[test]
fn buffers_are_copied_whole() {
    let device = device();
    let from = device.upload(&[1u32, 2, 3]).expect("from");
    let mut to = device.zeros::<u32>(3).expect("to");
    to.copy_from(&from).expect("copied");
    device.wait().expect("done");
    assert_eq!(to.to_vec().expect("read"), [1, 2, 3]);
    assert!(to.copy_from(&device.zeros(2).expect("short")).is_err());
}

#[test]
fn memory_comes_back_and_has_an_end() {
    let device = device();
    let (free, total) = device.memory().expect("memory");
    assert!(free > 0 && free <= total, "{free} of {total}");
    match device.zeros::<u8>(total + 1) {
        Err(CudaError::Memory { bytes }) => assert_eq!(bytes, total + 1),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{} of {total} bytes", total + 1),
    }
    // Far more than there is, if nothing came back.
    for _ in 0..16 {
        drop(device.zeros::<u8>(total / 8).expect("an eighth"));
    }
    let long: Vec<u32> = (0..3_000_000).collect();
    assert!(device.upload(&long).expect("12 MB").to_vec().expect("read") == long);
    let empty = device.upload::<f32>(&[]).expect("nothing");
    assert!(empty.is_empty() && empty.to_vec().expect("nothing").is_empty());
}

#[test]
fn copies_are_refused_while_a_graph_is_captured() {
    let device = device();
    let mut buffer = device.upload(&[1.0f32, 2.0]).expect("buffer");
    let refused = device.capture(|| buffer.write(&[3.0]));
    assert!(matches!(refused, Err(CudaError::Capturing(_))));
    let refused = device.capture(|| buffer.to_vec().map(drop));
    assert!(matches!(refused, Err(CudaError::Capturing(_))));
    let refused = device.capture(|| device.capture(|| Ok(())).map(drop));
    assert!(matches!(refused, Err(CudaError::Capturing(_))));
    // And afterwards all is as before.
    assert_eq!(buffer.to_vec().expect("read"), [1.0, 2.0]);
}

#[test]
fn short_copies_stay_in_order() {
    let device = device();
    let mut buffer = device.zeros::<u32>(1 << 16).expect("buffer");
    // Together more than any staging memory.
    for round in 0..40u32 {
        buffer.write(&vec![round; 1 << 16]).expect("written");
        if round % 7 == 0 {
            assert_eq!(buffer.read(3).expect("read"), [round; 3]);
        }
    }
    assert!(buffer.to_vec().expect("read").iter().all(|value| *value == 39));
}
