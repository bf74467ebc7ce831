//! Which libtorch device a configured device means.

use farmhand_core::{Device, Error, Result};

use crate::native;

/// The libtorch device that `device` means on this machine.
///
/// # Errors
/// When CUDA is asked for by name and libtorch finds none.
pub fn tch_device(device: Device) -> Result<tch::Device> {
    let found = match device {
        Device::Cpu => tch::Device::Cpu,
        Device::Auto => tch::Device::cuda_if_available(),
        Device::Cuda if tch::Cuda::is_available() => tch::Device::Cuda(0),
        Device::Cuda => {
            return Err(Error::missing_input("the device `cuda` is asked for, but libtorch finds no CUDA GPU")
                .with_hint("set `device = \"auto\"` or `\"cpu\"`, or install the CUDA build of libtorch and the driver"));
        }
    };
    if found != tch::Device::Cpu {
        // The order in which GPU kernels add up is free otherwise, and a resumed run would end with other bytes.
        native::prefer_deterministic_kernels()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_and_cpu_always_give_a_device() {
        assert_eq!(tch_device(Device::Cpu).expect("always there"), tch::Device::Cpu);
        assert!(tch_device(Device::Auto).is_ok());
        assert_eq!(tch_device(Device::Cuda).is_ok(), tch::Cuda::is_available());
    }

    #[test]
    fn preferring_deterministic_kernels_leaves_the_cpu_as_it_is() {
        native::prefer_deterministic_kernels().expect("a setting of libtorch");
        let x = tch::Tensor::zeros([3], (tch::Kind::Float, tch::Device::Cpu));
        let summed = x.index_add(0, &tch::Tensor::from_slice(&[1i64, 1]), &x.narrow(0, 0, 2).ones_like());
        assert_eq!(Vec::<f32>::try_from(summed).expect("numbers"), [0.0, 2.0, 0.0]);
    }
}
