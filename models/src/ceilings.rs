//! What the machine can do at best: the rate of matrix products, and of reading memory. Speeds are stated as shares of these.

use std::sync::OnceLock;
use std::time::Instant;

use tch::{Device, Kind, Tensor, no_grad};

use crate::native::{self, Argument};

/// Measured upper bounds, with the threads that are set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Operations a second of large matrix products in `f32` (`bf16` on a GPU), by the fastest kernel at hand.
    pub matmul_flops: f64,
    /// Bytes a second read from memory; on a GPU read and written by a copy.
    pub read_bytes: f64,
}

/// The bounds of a device, measured at the first call: about half a second. On a machine that does other work they are those
/// of the moment.
pub fn ceilings(device: Device) -> Ceilings {
    static CPU: OnceLock<Ceilings> = OnceLock::new();
    static CUDA: OnceLock<Ceilings> = OnceLock::new();
    match device {
        Device::Cuda(_) => *CUDA.get_or_init(|| measure(device)),
        _ => *CPU.get_or_init(|| measure(device)),
    }
}

/// Measures anew.
pub fn measure(device: Device) -> Ceilings {
    no_grad(|| match device {
        Device::Cuda(_) => Ceilings { matmul_flops: cuda_matmul(device), read_bytes: cuda_copy(device) },
        _ => Ceilings { matmul_flops: cpu_matmul(), read_bytes: cpu_read() },
    })
}

/// A matrix of reproducible numbers of ordinary size.
fn numbers(rows: i64, columns: i64, options: (Kind, Device)) -> Tensor {
    Tensor::arange(rows * columns, (Kind::Float, options.1)).sin().view([rows, columns]).to_kind(options.0)
}

/// Seconds of the fastest of `n` runs, after one that is not counted.
fn fastest(n: usize, mut run: impl FnMut()) -> f64 {
    run();
    let timed = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..n).map(timed).fold(f64::INFINITY, f64::min)
}

/// The best of all kernels on two shapes of a transformer's kind.
fn cpu_matmul() -> f64 {
    let threads = f64::from(tch::get_num_threads().max(1));
    let rate = |m: i64, n: i64, k: i64| {
        let (x, weight) = (numbers(m, k, tch::kind::FLOAT_CPU), numbers(n, k, tch::kind::FLOAT_CPU));
        let default = fastest(4, || drop(x.linear(&weight, None::<Tensor>)));
        let ours = fastest(4, || drop(native::product(&x, &weight)));
        let one_dnn = {
            let arguments = [(&x).into(), (&weight).into(), Argument::None, Argument::Str("none")];
            let arguments = [arguments.as_slice(), &[Argument::Tensors(&[]), Argument::Str("")]].concat();
            let is_there = native::call("mkldnn::_linear_pointwise", &arguments).is_ok();
            if is_there { fastest(4, || drop(native::call("mkldnn::_linear_pointwise", &arguments))) } else { f64::INFINITY }
        };
        (2 * m * n * k) as f64 / default.min(ours).min(one_dnn)
    };
    // With more threads a larger product is needed to keep all of them busy.
    let rows = 768 * threads.sqrt().ceil() as i64;
    rate(rows, 2048, 768).max(rate(rows, 1024, 2048))
}

fn cpu_read() -> f64 {
    // Far more than any cache holds, and written before it is read.
    let block = Tensor::ones([48 << 20], tch::kind::FLOAT_CPU);
    let bytes = 4.0 * block.numel() as f64;
    let one_thread = fastest(4, || {
        let _ = native::read_all(&block);
    });
    let all_threads = fastest(4, || drop(block.sum(Kind::Float)));
    bytes / one_thread.min(all_threads)
}

/// Not run on a GPU yet.
fn cuda_matmul(device: Device) -> f64 {
    let size = 8192;
    let (a, b) = (numbers(size, size, (Kind::BFloat16, device)), numbers(size, size, (Kind::BFloat16, device)));
    let secs = fastest(4, || {
        let product = a.matmul(&b);
        // Reading a number waits for the device.
        drop(product.narrow(0, 0, 1).narrow(1, 0, 1).to_device(Device::Cpu));
    });
    2.0 * (size as f64).powi(3) / secs
}

/// Not run on a GPU yet.
fn cuda_copy(device: Device) -> f64 {
    let from = Tensor::ones([512 << 20], (Kind::BFloat16, device));
    let mut to = from.zeros_like();
    let secs = fastest(4, || {
        to.copy_(&from);
        drop(to.narrow(0, 0, 1).to_device(Device::Cpu));
    });
    2.0 * 2.0 * from.numel() as f64 / secs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_measured_once_and_are_of_a_machines_size() {
        let first = ceilings(Device::Cpu);
        assert!((1e8..1e16).contains(&first.matmul_flops) && (1e8..1e14).contains(&first.read_bytes), "{first:?}");
        assert_eq!(ceilings(Device::Cpu), first);
    }
}
