//! naga: WGSL to what each backend of wgpu hands its driver, with wgpu's settings.

use mamba_wgpu::kernels::{Needs, ShaderVariant};
use naga::back::{glsl, hlsl, msl, pipeline_constants, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{Module, ShaderStage};
use std::collections::HashSet;

/// What wgpu emits for Vulkan 1.0, 1.1, 1.2 and 1.3.
pub const SPIRV_VERSIONS: [(u8, u8); 4] = [(1, 0), (1, 3), (1, 5), (1, 6)];

/// The two kinds of shader module that the library makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// No bounds checks, no bounding of loops: our own kernels.
    Trusted,
    /// All checks: the tests' modules, and browsers'.
    Checked,
}

impl Runtime {
    fn bounds(self) -> BoundsCheckPolicies {
        let policy = match self {
            Self::Trusted => BoundsCheckPolicy::Unchecked,
            Self::Checked => BoundsCheckPolicy::Restrict,
        };
        BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, ..Default::default() }
    }
}

/// A variant, validated and with its `override` constants in place.
#[derive(Debug)]
pub struct Resolved {
    pub module: Module,
    pub info: ModuleInfo,
    entry_point: String,
    needs: Needs,
}

fn capabilities(needs: Needs) -> Capabilities {
    let mut capabilities = Capabilities::empty();
    capabilities.set(Capabilities::SHADER_FLOAT16, needs.f16);
    capabilities.set(Capabilities::SUBGROUP | Capabilities::SUBGROUP_BARRIER, needs.subgroups);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, needs.cooperative_matrix);
    // unpack2x16float and its like; wgpu has it on for every device that is not WebGL.
    capabilities | Capabilities::SHADER_FLOAT16_IN_FLOAT32
}

/// Parses, validates with no more capabilities than the variant says it needs, and resolves its constants.
pub fn resolve(variant: &ShaderVariant) -> Result<Resolved, String> {
    let capabilities = capabilities(variant.needs);
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(&variant.source)
        .map_err(|e| e.emit_to_string(&variant.source))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if variant.needs.subgroups {
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(&variant.source))?;

    let declared: HashSet<&str> = module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
    if let Some((name, _)) = variant.constants.iter().find(|(name, _)| !declared.contains(name.as_str())) {
        return Err(format!("it is given {name}, which it does not declare as override"));
    }
    let constants = variant.constants.iter().cloned().collect();
    let entry_point = Some((ShaderStage::Compute, variant.entry_point));
    let (module, info) = pipeline_constants::process_overrides(&module, &info, entry_point, &constants)
        .map_err(|e| format!("its override constants: {e}"))?;
    Ok(Resolved {
        // process_overrides keeps the one entry point.
        module: module.into_owned(),
        info: info.into_owned(),
        entry_point: variant.entry_point.to_owned(),
        needs: variant.needs,
    })
}

impl Resolved {
    /// Subgroup operations and 16-bit storage came with SPIR-V 1.3, cooperative matrices ask for 1.6.
    pub fn least_spirv(&self) -> (u8, u8) {
        match self.needs {
            Needs { cooperative_matrix: true, .. } => (1, 6),
            Needs { subgroups: true, .. } | Needs { f16: true, .. } => (1, 3),
            _ => (1, 0),
        }
    }

    pub fn spirv(&self, lang_version: (u8, u8), runtime: Runtime) -> Result<Vec<u32>, String> {
        let options = spv::Options {
            lang_version,
            fake_missing_bindings: true,
            bounds_check_policies: runtime.bounds(),
            force_loop_bounding: runtime == Runtime::Checked,
            emit_int_div_checks: runtime == Runtime::Checked,
            ..Default::default()
        };
        let pipeline =
            spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: self.entry_point.clone() };
        spv::write_vec(&self.module, &self.info, &options, Some(&pipeline))
            .map(|words| crate::spirv::without_layouts_outside_buffers(&words))
            .map_err(|e| format!("SPIR-V: {e}"))
    }

    /// Writes MSL for macOS 12 and later, trusted and checked. Nothing here can compile it.
    pub fn msl(&self) -> Result<(), String> {
        for runtime in [Runtime::Trusted, Runtime::Checked] {
            for lang_version in [(2, 4), (3, 1)] {
                let options = msl::Options {
                    lang_version,
                    fake_missing_bindings: true,
                    bounds_check_policies: runtime.bounds(),
                    force_loop_bounding: runtime == Runtime::Checked,
                    ..Default::default()
                };
                let pipeline = msl::PipelineOptions {
                    entry_point: Some((ShaderStage::Compute, self.entry_point.clone())),
                    ..Default::default()
                };
                let (text, names) = msl::write_string(&self.module, &self.info, &options, &pipeline)
                    .map_err(|e| format!("MSL: {e}"))?;
                let name = the_entry_point(names.entry_point_names, "MSL")?;
                if !text.contains(&format!("kernel void {name}(")) {
                    return Err(format!("MSL without kernel {name}:\n{text}"));
                }
            }
        }
        Ok(())
    }

    /// The entry point's name and the text, as wgpu gives them to DXC.
    pub fn hlsl(&self) -> Result<(String, String), String> {
        let shader_model = if self.needs.f16 { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V6_0 };
        let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
        let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, self.entry_point.clone())) };
        let mut text = String::new();
        let names = hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&self.module, &self.info, None)
            .map_err(|e| format!("HLSL: {e}"))?;
        Ok((the_entry_point(names.entry_point_names, "HLSL")?, text))
    }

    /// GLSL ES 3.10, the least that has compute shaders.
    pub fn glsl(&self) -> Result<String, String> {
        // As wgpu numbers them: storage and uniform buffers each from 0.
        let mut binding_map = glsl::BindingMap::default();
        let (mut storage, mut uniform) = (0, 0);
        for (_, variable) in self.module.global_variables.iter() {
            let next = if matches!(variable.space, naga::AddressSpace::Uniform) { &mut uniform } else { &mut storage };
            if let Some(binding) = variable.binding {
                binding_map.insert(binding, *next);
                *next += 1;
            }
        }
        let options = glsl::Options { version: glsl::Version::new_gles(310), binding_map, ..Default::default() };
        let pipeline = glsl::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: self.entry_point.clone(),
            multiview: None,
        };
        let mut text = String::new();
        glsl::Writer::new(&mut text, &self.module, &self.info, &options, &pipeline, BoundsCheckPolicies::default())
            .and_then(|mut writer| writer.write())
            .map_err(|e| format!("GLSL: {e}"))?;
        Ok(text)
    }
}

fn the_entry_point<E: std::fmt::Display>(names: Vec<Result<String, E>>, target: &str) -> Result<String, String> {
    match names.into_iter().next() {
        Some(Ok(name)) => Ok(name),
        Some(Err(e)) => Err(format!("{target}: {e}")),
        None => Err(format!("{target}: no entry point was written")),
    }
}
