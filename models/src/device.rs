//! Which libtorch device a configured device means.

use farmhand_core::{Device, Error, Result};

/// The libtorch device that `device` means on this machine.
///
/// # Errors
/// When CUDA is asked for by name and libtorch finds none.
pub fn tch_device(device: Device) -> Result<tch::Device> {
    match device {
        Device::Cpu => Ok(tch::Device::Cpu),
        Device::Auto => Ok(tch::Device::cuda_if_available()),
        Device::Cuda if tch::Cuda::is_available() => Ok(tch::Device::Cuda(0)),
        Device::Cuda => Err(Error::missing_input("the device `cuda` is asked for, but libtorch finds no CUDA GPU")
            .with_hint("set `device = \"auto\"` or `\"cpu\"`, or install the CUDA build of libtorch and the driver")),
    }
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
}
