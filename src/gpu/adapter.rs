//! The adapters there are, in the order in which they are preferred.

use super::GpuError;
use serde::{Deserialize, Serialize};

/// How a caller names an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdapterChoice {
    /// Its place in [`list_adapters`].
    Index(usize),
    /// A part of its name, in any case.
    Name(String),
}

impl std::str::FromStr for AdapterChoice {
    type Err = std::convert::Infallible;
    /// A whole number is an index, anything else a name.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s.parse() {
            Ok(i) => AdapterChoice::Index(i),
            Err(_) => AdapterChoice::Name(s.to_owned()),
        })
    }
}

/// One adapter, in words, as `mamba-wgpu adapters` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterSummary {
    pub index: usize,
    pub name: String,
    pub backend: String,
    /// DiscreteGpu, IntegratedGpu, VirtualGpu, Cpu (a software renderer) or Other.
    pub device_type: String,
    pub driver: String,
    pub driver_info: String,
    /// Where it is, `0000:01:00.0`; empty where its API does not tell.
    #[serde(default)]
    pub pci_bus_id: String,
    /// Whether it has compute shaders at all (old OpenGL has not).
    pub compute: bool,
    pub subgroup_min_size: u32,
    pub subgroup_max_size: u32,
    pub max_buffer_size: u64,
    pub max_storage_buffer_binding_size: u64,
    pub max_compute_workgroup_storage_size: u32,
    pub max_compute_invocations_per_workgroup: u32,
    pub shader_f16: bool,
    pub subgroups: bool,
    pub timestamp_query: bool,
    pub cooperative_matrix: bool,
}

impl AdapterSummary {
    pub(super) fn new(index: usize, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let limits = adapter.limits();
        let has = |f| adapter.features().contains(f);
        Self {
            index,
            name: info.name,
            backend: info.backend.to_str().to_owned(),
            device_type: format!("{:?}", info.device_type),
            driver: info.driver,
            driver_info: info.driver_info,
            pci_bus_id: info.device_pci_bus_id,
            compute: adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS),
            subgroup_min_size: info.subgroup_min_size,
            subgroup_max_size: info.subgroup_max_size,
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
            shader_f16: has(wgpu::Features::SHADER_F16),
            subgroups: has(wgpu::Features::SUBGROUP),
            timestamp_query: has(wgpu::Features::TIMESTAMP_QUERY),
            cooperative_matrix: has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        }
    }

    /// "0: NVIDIA H100 (vulkan)", for messages.
    pub fn line(&self) -> String {
        format!("{}: {} ({})", self.index, self.name, self.backend)
    }
}

/// An adapter with the instance that it must not outlive.
pub(super) struct Found {
    pub adapters: Vec<wgpu::Adapter>,
    _instance: wgpu::Instance,
}

/// All adapters of a backend, best first: real GPUs before software. Without a backend: the native APIs (or those that
/// the environment variable WGPU_BACKEND names), and OpenGL only where they have nothing, since starting it is slow
/// and noisy.
pub(super) async fn find(backend: Option<wgpu::Backend>, power: wgpu::PowerPreference) -> Found {
    let named = wgpu::Backends::from_env();
    let mut tries = match (backend, named) {
        (Some(backend), _) => vec![wgpu::Backends::from(backend)],
        (None, Some(named)) => vec![named],
        (None, None) => vec![wgpu::Backends::PRIMARY, wgpu::Backends::SECONDARY],
    }
    .into_iter();
    loop {
        let backends = tries.next();
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        descriptor.backends = backends.unwrap_or(wgpu::Backends::empty());
        let instance = wgpu::Instance::new(descriptor);
        let adapters = sorted(&instance, power).await;
        if !adapters.is_empty() || backends.is_none() {
            return Found { adapters, _instance: instance };
        }
    }
}

async fn sorted(instance: &wgpu::Instance, power: wgpu::PowerPreference) -> Vec<wgpu::Adapter> {
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    // The web has no list: it gives the one adapter that fits.
    if adapters.is_empty() {
        let options = wgpu::RequestAdapterOptions { power_preference: power, ..Default::default() };
        adapters.extend(instance.request_adapter(&options).await.ok());
    }
    let rank = |a: &wgpu::Adapter| {
        let info = a.get_info();
        let kind = match (info.device_type, power) {
            (wgpu::DeviceType::IntegratedGpu, wgpu::PowerPreference::LowPower) => 0,
            (wgpu::DeviceType::DiscreteGpu, _) => 1,
            (wgpu::DeviceType::IntegratedGpu, _) => 2,
            (wgpu::DeviceType::VirtualGpu, _) => 3,
            (wgpu::DeviceType::Other, _) => 4,
            (wgpu::DeviceType::Cpu, _) => 5,
        };
        let compute = a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS);
        (!compute, kind)
    };
    adapters.sort_by_key(rank);
    adapters
}

/// Every adapter of a backend, best first; for `None` those of the native APIs, or of OpenGL where they have none.
pub async fn list_adapters(backend: Option<wgpu::Backend>) -> Vec<AdapterSummary> {
    let found = find(backend, wgpu::PowerPreference::HighPerformance).await;
    found.adapters.iter().enumerate().map(|(i, a)| AdapterSummary::new(i, a)).collect()
}

/// The adapter that a choice names, or the best.
pub(super) fn choose(
    adapters: Vec<wgpu::Adapter>,
    choice: Option<&AdapterChoice>,
    backend: Option<wgpu::Backend>,
) -> Result<(wgpu::Adapter, AdapterSummary), GpuError> {
    let summaries: Vec<_> = adapters.iter().enumerate().map(|(i, a)| AdapterSummary::new(i, a)).collect();
    let index = match choice {
        None if summaries.is_empty() => {
            let backends = backend.map_or("any backend".into(), |b| b.to_str().to_owned());
            return Err(GpuError::NoAdapter { backends });
        }
        None => Some(0),
        Some(AdapterChoice::Index(i)) => (*i < summaries.len()).then_some(*i),
        Some(AdapterChoice::Name(name)) => {
            let name = name.to_lowercase();
            summaries.iter().position(|s| s.name.to_lowercase().contains(&name))
        }
    };
    let Some(index) = index else {
        let wanted = match choice {
            Some(AdapterChoice::Index(i)) => format!("number {i}"),
            Some(AdapterChoice::Name(name)) => format!("named {name:?}"),
            None => String::new(),
        };
        let available = summaries.iter().map(AdapterSummary::line).collect();
        return Err(GpuError::UnknownAdapter { wanted, available });
    };
    let summary = summaries[index].clone();
    if !summary.compute {
        return Err(GpuError::NoCompute { adapter: summary.line() });
    }
    let adapter = adapters.into_iter().nth(index);
    adapter.map(|a| (a, summary)).ok_or(GpuError::NoAdapter { backends: "any backend".into() })
}
