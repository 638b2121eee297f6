#![allow(missing_docs)]
use candle_core::*;
use kernels::*;
use std::sync::Arc;
use std::time::Instant;
fn pk(ty: WeightType, r: usize, c: usize) -> Arc<PackedMatrix> {
    let mut d = vec![0u8; r * ty.row_bytes(c).unwrap()];
    let mut s = 1u64;
    let sc = if ty == WeightType::Q4_1 { 2 } else { 1 };
    for b in d.chunks_exact_mut(ty.block_bytes()) {
        for x in b.iter_mut() {
            s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *x = (s >> 56) as u8;
        }
        for k in 0..sc {
            b[2 * k..2 * k + 2]
                .copy_from_slice(&half::f16::from_f32(if k == 0 { 0.01 } else { -0.075 }).to_le_bytes());
        }
    }
    Arc::new(PackedMatrix::pack(ty, r, c, &d).unwrap())
}
fn main() {
    let inst = std::env::args().nth(1).map(|a| a == "in").unwrap_or(false);
    let (h, f, v, l) = (576, 1536, 49152, 30);
    let q = WeightType::Q4_1;
    let layers: Vec<_> = (0..l).map(|_| (pk(q, 960, h), pk(q, h, h), pk(q, 2 * f, h), pk(q, h, f))).collect();
    let head = pk(WeightType::Q8_0, v, h);
    let shape = HeadShape { heads: 9, kv_heads: 3, head_dim: 64 };
    let rope = Arc::new(RopeTable::new(64, 2048, 1e5, None, true));
    let dev = Device::Cpu;
    let bs = 16;
    let ctx = 256usize;
    let nb = 64 * (ctx / bs + 40);
    let caches: Vec<_> = (0..l).map(|_| LayerCache::new(nb, bs, &shape, &dev).unwrap()).collect();
    let w = Tensor::ones(h, DType::F32, &dev).unwrap();
    for (name, seqs, q_len, start) in [
        ("dec1", 1, 1, ctx - 1),
        ("dec4", 4, 1, ctx - 1),
        ("dec8", 8, 1, ctx - 1),
        ("dec16", 16, 1, ctx - 1),
        ("dec32", 32, 1, ctx - 1),
        ("dec1ctx1024", 1, 1, 600),
        ("pre128", 1, 128, 0),
        ("pre512", 1, 512, 0),
    ] {
        let stride = (start + q_len).div_ceil(bs);
        let mut m = AttentionMeta { table_stride: stride, query_start: vec![0], ..Default::default() };
        for s in 0..seqs {
            m.context_len.push((start + q_len) as u32);
            for p in 0..stride {
                m.block_table.push((s * stride + p) as u32);
            }
            for p in start..start + q_len {
                m.positions.push(p as u32);
                m.slot_mapping.push(((s * stride + p / bs) * bs + p % bs) as u32);
            }
            m.query_start.push(m.positions.len() as u32);
        }
        let t = m.positions.len();
        let m = Arc::new(m);
        let x0 = Tensor::randn(0f32, 1.0, (t, h), &dev).unwrap();
        let mut times = vec![];
        let mut parts = [0f64; 6];
        let n = if t > 64 { 6 } else { 30 };
        let mut run = || {
            for it in 0..n {
                let t0 = Instant::now();
                let mut pp = [0f64; 6];
                let mut x = x0.clone();
                macro_rules! tm {
                    ($i:expr,$e:expr) => {{
                        let t = Instant::now();
                        let r = $e.unwrap();
                        pp[$i] += t.elapsed().as_secs_f64();
                        r
                    }};
                }
                for (ly, c) in layers.iter().zip(&caches) {
                    let n1 = tm!(0, rms_norm(&x, &w, 1e-5));
                    let qkv = tm!(1, matmul(&n1, &ly.0));
                    let a = tm!(2, attention(&qkv, c, &rope, &shape, &m));
                    let o = tm!(1, matmul(&a, &ly.1));
                    x = tm!(3, x + o);
                    let n2 = tm!(0, rms_norm(&x, &w, 1e-5));
                    let g = tm!(1, matmul(&n2, &ly.2));
                    let g = tm!(4, silu_mul(&g));
                    let o = tm!(1, matmul(&g, &ly.3));
                    x = tm!(3, x + o);
                }
                let rows: Vec<u32> = if q_len > 1 { vec![t as u32 - 1] } else { (0..t as u32).collect() };
                let y = select_rows(&x, &rows).unwrap();
                let y = tm!(0, rms_norm(&y, &w, 1e-5));
                let y = tm!(5, matmul(&y, &head));
                std::hint::black_box(&y);
                if it > 1 {
                    times.push(t0.elapsed().as_secs_f64());
                    for i in 0..6 {
                        parts[i] += pp[i];
                    }
                }
            }
        };
        if inst {
            install(|| run())
        } else {
            run()
        }
        let k = times.len() as f64;
        times.sort_by(f64::total_cmp);
        println!(
            "{name}: best {:.2} ms median {:.2} ms => {:.0} tok/s (best {:.0}); avg ms norm {:.2} mm {:.2} ({:.0} GOPS) attn {:.2} add {:.2} silu {:.2} head {:.2}",
            times[0] * 1e3,
            times[times.len() / 2] * 1e3,
            t as f64 / times[times.len() / 2],
            t as f64 / times[0],
            parts[0] / k * 1e3,
            parts[1] / k * 1e3,
            0.2124 * t as f64 / (parts[1] / k),
            parts[2] / k * 1e3,
            parts[3] / k * 1e3,
            parts[4] / k * 1e3,
            parts[5] / k * 1e3
        );
    }
}
