//! Devices: where arrays live and work runs.

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceType {
    /// The processor that runs the program.
    Cpu,
    /// A graphics processor.
    Gpu,
}

/// A device: its kind and its number among those of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// The kind.
    pub kind: DeviceType,
    /// The number, from 0.
    pub index: usize,
}

impl Device {
    /// The processor that runs the program.
    pub const CPU: Device = Device {
        kind: DeviceType::Cpu,
        index: 0,
    };
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            DeviceType::Cpu => "cpu",
            DeviceType::Gpu => "gpu",
        };
        write!(f, "{kind}:{}", self.index)
    }
}
