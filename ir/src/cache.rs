//! Which element type a model's KV caches have: the one choice about an imported module that its user makes afterwards.

use crate::entity::FuncId;
use crate::infer::TypeRule;
use crate::module::Module;
use crate::types::DType;

/// An element type that KV caches can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// Half precision: 2 bytes an element.
    #[default]
    F16,
    /// Single precision: twice the memory, and the precision of the residual stream.
    F32,
}

impl CacheType {
    /// The type of an element.
    pub const fn dtype(self) -> DType {
        match self {
            CacheType::F16 => DType::F16,
            CacheType::F32 => DType::F32,
        }
    }

    /// Its name, as in the text form.
    pub fn name(self) -> &'static str {
        self.dtype().name()
    }
}

impl TryFrom<DType> for CacheType {
    type Error = CacheError;

    /// # Errors
    /// A type that no cache has.
    fn try_from(dtype: DType) -> Result<Self, CacheError> {
        match dtype {
            DType::F16 => Ok(CacheType::F16),
            DType::F32 => Ok(CacheType::F32),
            other => Err(CacheError::DType(other)),
        }
    }
}

/// Why the caches cannot have an element type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Not a type that caches have.
    #[error("a cache cannot have elements of type {}: expected f16 or f32", .0.name())]
    DType(DType),
    /// An op of the module, which was not sound before, does not take the caches.
    #[error("@{func}: {rule}")]
    Rule {
        /// The function.
        func: String,
        /// What its op says.
        rule: TypeRule,
    },
}

/// Gives every cache of the module elements of the type `cache`, and infers the types of what they become. Plans stay as
/// they are: caches are not in the arena. On error the module is unchanged.
///
/// # Errors
/// A module that the verifier refuses.
pub fn set_cache_type(module: &mut Module, cache: CacheType) -> Result<(), CacheError> {
    let dtype = cache.dtype();
    let params = module.params().clone();
    let mut changed = Vec::new();
    for (id, func) in module.funcs().iter() {
        let mut func = func.clone();
        for position in 0..func.inputs().len() {
            let ty = func.ty(func.inputs()[position]);
            if ty.as_cache().is_some() && ty.dtype != dtype {
                let ty = crate::types::Type { dtype, ..ty.clone() };
                func.set_input_type(position, ty);
            }
        }
        func.retype(&|p| params[p].ty.clone())
            .map_err(|(_, rule)| CacheError::Rule { func: func.name().to_owned(), rule })?;
        changed.push((id, func));
    }
    for (id, func) in changed {
        let id: FuncId = id;
        *module.func_mut(id) = func;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{GenOptions, random_module};
    use crate::stage::Stage;
    use crate::text::print;
    use crate::verify::verify;

    #[test]
    fn caches_change_and_nothing_else() {
        let mut with_caches = 0;
        for seed in 0..40 {
            let options = GenOptions { stage: Stage::Planned, ..GenOptions::default() };
            let (mut module, _) = random_module(seed, &options);
            set_cache_type(&mut module, CacheType::F16).unwrap();
            let before = print(&module);
            set_cache_type(&mut module, CacheType::F32).unwrap();
            assert_eq!(verify(&module), Ok(()));
            let text = print(&module);
            let is_cache = |line: &str| line.contains("xCx");
            with_caches += usize::from(text != before);
            for (a, b) in before.lines().zip(text.lines()) {
                assert!(!is_cache(b) || !b.contains("f16["), "{b}");
                assert!(a == b || is_cache(a));
            }
            set_cache_type(&mut module, CacheType::F16).unwrap();
            assert_eq!(print(&module), before);
        }
        assert!(with_caches > 20);
    }

    #[test]
    fn other_types_are_refused() {
        for dtype in [DType::I8, DType::Ter, DType::W4] {
            assert_eq!(CacheType::try_from(dtype), Err(CacheError::DType(dtype)));
        }
        let error = CacheType::try_from(DType::I8).unwrap_err();
        assert_eq!(error.to_string(), "a cache cannot have elements of type i8: expected f16 or f32");
        for cache in [CacheType::F16, CacheType::F32] {
            assert_eq!(CacheType::try_from(cache.dtype()), Ok(cache));
        }
    }
}
