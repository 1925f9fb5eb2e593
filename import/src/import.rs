//! A checkpoint, checked, and the GGUF file that it becomes.

use std::collections::BTreeSet;

use bitnetc_frontend_gguf::decode::FloatFormat;
use bitnetc_frontend_gguf::limits::DEFAULT_ALIGNMENT;
use bitnetc_frontend_gguf::model::layer_tensor_name;
use bitnetc_frontend_gguf::write::{DirectoryEntry, Header, MetaValue};
use bitnetc_frontend_gguf::{
    Gguf, HyperParams, LayerRole, PreTokenizer, TensorClass, TensorType, TokenizerMeta, encode, printable,
};
use bitnetc_ir::Pairs;

use crate::config::{Config, Stored};
use crate::error::ImportError;
use crate::matrix::{Form, Matrix, Rows, Values, float_format};
use crate::safetensors::Tensors;
use crate::{names, tokenizer};

/// The bytes of a checkpoint's files.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint<'a> {
    /// `config.json`.
    pub config: &'a [u8],
    /// `generation_config.json`.
    pub generation_config: Option<&'a [u8]>,
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `chat_template.jinja`.
    pub chat_template: Option<&'a [u8]>,
    /// `model.safetensors.index.json`.
    pub index: Option<&'a [u8]>,
    /// The safetensors files, with their names.
    pub shards: Vec<(&'a str, &'a [u8])>,
}

/// What the user decides.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Type of the ternary layers, one of [`TARGETS`].
    pub target: TensorType,
    /// Whether float weights are master weights even if `config.json` does not say so.
    pub absmean: bool,
    /// The rule for cutting text, instead of the one that `tokenizer.json` has.
    pub pre: Option<PreTokenizer>,
}

impl Default for Options {
    fn default() -> Self {
        Self { target: TensorType::I2S, absmean: false, pre: None }
    }
}

/// The types that ternary layers can be written in, with their names on the command line.
pub const TARGETS: &[(&str, TensorType)] = &[
    ("i2_s", TensorType::I2S),
    ("tq1_0", TensorType::Tq1_0),
    ("tq2_0", TensorType::Tq2_0),
    ("ptq1_0", TensorType::Ptq1_0),
    ("pq2_0", TensorType::Pq2_0),
    ("iq2_bn", TensorType::Iq2Bn),
    ("f16", TensorType::F16),
    ("bf16", TensorType::Bf16),
    ("f32", TensorType::F32),
];

/// A checkpoint that has been checked, but for its weights.
#[derive(Debug)]
pub struct Import<'a> {
    header: Vec<u8>,
    tensors: Vec<Output<'a>>,
    architecture: &'static str,
    notes: Vec<String>,
}

/// A tensor of the file.
#[derive(Debug)]
struct Output<'a> {
    name: String,
    bytes: u64,
    ty: TensorType,
    content: Content<'a>,
}

#[derive(Debug)]
enum Content<'a> {
    /// Made here.
    Values(Vec<f32>),
    /// A tensor of the checkpoint.
    Matrix(Matrix<'a>, Form),
}

impl<'a> Import<'a> {
    /// Checks a checkpoint. Of the weights only those are read whose form cannot be known otherwise: master weights, for
    /// their mean, and floats that may be ternary.
    ///
    /// # Errors
    /// Every [`ImportError`]; of `BadWeights` only values that are not finite.
    pub fn read(checkpoint: &Checkpoint<'a>, options: &Options) -> Result<Self, ImportError> {
        let config = Config::read(checkpoint.config, checkpoint.generation_config)?;
        let files = tokenizer::Files {
            tokenizer: checkpoint.tokenizer,
            config: checkpoint.tokenizer_config,
            template: checkpoint.chat_template,
        };
        let tensors = Tensors::read(&checkpoint.shards, checkpoint.index)?;
        let tokenizer = tokenizer::read(files, &config, options.pre)?;
        let mut entries = config.entries.clone();
        entries.push(("general.quantization_version".to_owned(), MetaValue::U32(2)));
        entries
            .extend(file_type(options.target).map(|n| ("general.file_type".to_owned(), MetaValue::U32(n))));
        entries.extend(tokenizer.entries);
        let entries: Vec<(Vec<u8>, MetaValue)> =
            entries.into_iter().map(|(k, v)| (k.into_bytes(), v)).collect();
        let divisors = config.rope_divisors.clone().map(|values| Output {
            name: "rope_freqs.weight".to_owned(),
            bytes: values.len() as u64 * 4,
            ty: TensorType::F32,
            content: Content::Values(values),
        });
        let hparams = check_metadata(&entries, divisors.as_ref())?;
        let mut binder = Binder {
            tensors: &tensors,
            config: &config,
            options,
            used: BTreeSet::new(),
            notes: Vec::new(),
            kept: 0,
        };
        let mut outputs = binder.bind(&hparams)?;
        outputs.extend(divisors);
        binder.finish()?;
        let mut notes = config.notes.clone();
        notes.extend(tokenizer.notes);
        notes.append(&mut binder.notes);
        let header = encode_header(&entries, &outputs);
        Ok(Self { header, tensors: outputs, architecture: hparams.architecture, notes })
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.header.len() as u64
            + self.tensors.iter().map(|t| t.bytes.next_multiple_of(DEFAULT_ALIGNMENT)).sum::<u64>()
    }

    /// `general.architecture` of the file.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// The tensors of the file, in order: name, type and bytes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorType, u64)> {
        self.tensors.iter().map(|t| (t.name.as_str(), t.ty, t.bytes))
    }

    /// Defaults used, and what is not carried over exactly.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Converts the weights and hands the whole file over, piece by piece.
    ///
    /// # Errors
    /// What `sink` returns, or `BadWeights`; nothing more is handed over then.
    pub fn write<E: From<ImportError>>(&self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        sink(&self.header)?;
        for tensor in &self.tensors {
            match &tensor.content {
                Content::Values(values) => {
                    sink(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
                }
                Content::Matrix(matrix, form) => matrix.write(form, &mut sink)?,
            }
            let padding = tensor.bytes.next_multiple_of(DEFAULT_ALIGNMENT) - tensor.bytes;
            sink(&[0; DEFAULT_ALIGNMENT as usize][..padding as usize])?;
        }
        Ok(())
    }
}

/// The number of `general.file_type`, where ggml or bitnet.cpp has one.
fn file_type(target: TensorType) -> Option<u32> {
    match target {
        TensorType::F32 => Some(0),
        TensorType::F16 => Some(1),
        TensorType::Bf16 => Some(32),
        TensorType::Tq1_0 => Some(36),
        TensorType::Tq2_0 => Some(37),
        TensorType::I2S => Some(40),
        _ => None,
    }
}

/// Has the front-end read the metadata back, as a file with no tensors but the one that they need.
fn check_metadata(
    entries: &[(Vec<u8>, MetaValue)],
    divisors: Option<&Output<'_>>,
) -> Result<HyperParams, ImportError> {
    let mut file = encode_header(entries, divisors.map_or(&[], std::slice::from_ref));
    if let Some(Output { content: Content::Values(values), .. }) = divisors {
        file.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    let gguf = Gguf::parse(&file)?;
    let (hparams, _) = HyperParams::read(&gguf, None)?;
    TokenizerMeta::read(&gguf)?;
    Ok(hparams)
}

fn encode_header(entries: &[(Vec<u8>, MetaValue)], tensors: &[Output<'_>]) -> Vec<u8> {
    let dims: Vec<Vec<u64>> = tensors
        .iter()
        .map(|t| match &t.content {
            Content::Values(values) => vec![values.len() as u64],
            Content::Matrix(matrix, _) if matrix.rows == 1 => vec![matrix.cols as u64],
            Content::Matrix(matrix, _) => vec![matrix.cols as u64, matrix.rows as u64],
        })
        .collect();
    let mut offset = 0;
    let directory: Vec<DirectoryEntry<'_>> = tensors
        .iter()
        .zip(&dims)
        .map(|(tensor, dims)| {
            let entry = DirectoryEntry { name: tensor.name.as_bytes(), dims, ty: tensor.ty.id(), offset };
            offset += tensor.bytes.next_multiple_of(DEFAULT_ALIGNMENT);
            entry
        })
        .collect();
    let header = Header {
        version: 3,
        alignment: DEFAULT_ALIGNMENT as usize,
        entries,
        tensors: &directory,
        tensor_count: None,
        key_count: None,
    };
    header.encode(&mut |_, _| ())
}

/// Looks the tensors of a model up, and keeps track of those nobody asked for.
struct Binder<'t, 'a> {
    tensors: &'t Tensors<'a>,
    config: &'t Config,
    options: &'t Options,
    used: BTreeSet<String>,
    notes: Vec<String>,
    /// Linear layers that stay floats.
    kept: usize,
}

impl<'a> Binder<'_, 'a> {
    fn bind(&mut self, hparams: &HyperParams) -> Result<Vec<Output<'a>>, ImportError> {
        let table = (hparams.vocab, hparams.hidden);
        let mut outputs = vec![self.floats(names::EMBEDDING, "token_embd.weight", table, None)?];
        for layer in 0..hparams.layers {
            for t in hparams.layer_tensors(layer) {
                let dims = (t.dims)(hparams);
                let shape = (dims.rows() as usize, dims.row() as usize);
                let module = names::module(layer, t.role);
                let name = layer_tensor_name(layer, t);
                let heads = matches!(t.role, LayerRole::AttnQ | LayerRole::AttnK);
                let permuted =
                    (heads && hparams.family.rope == Pairs::Interleaved).then_some(hparams.head_dim);
                outputs.push(match t.class {
                    TensorClass::Linear => self.linear(&module, &name, shape, permuted)?,
                    _ => {
                        self.floats(&format!("{module}{}", t.suffix), &name, shape, Some(FloatFormat::F32))?
                    }
                });
            }
        }
        outputs.push(self.floats(
            names::NORM,
            "output_norm.weight",
            (1, hparams.hidden),
            Some(FloatFormat::F32),
        )?);
        let head = self.tensors.find(names::HEAD).is_some();
        let tied = self.config.tied.unwrap_or_else(|| {
            let found = if head { "there is lm_head.weight" } else { "there is no lm_head.weight" };
            self.notes.push(format!("tie_word_embeddings is absent; {} is used, since {found}", !head));
            !head
        });
        if tied {
            // A copy of the embedding, which the model does not use.
            self.used.insert(names::HEAD.to_owned());
        } else {
            outputs.push(self.floats(names::HEAD, "output.weight", table, None)?);
        }
        Ok(outputs)
    }

    fn matrix(&mut self, name: &str, (rows, cols): (usize, usize)) -> Result<Matrix<'a>, ImportError> {
        let tensor = self.tensors.find(name);
        let tensor = tensor.ok_or_else(|| ImportError::MissingTensor { tensor: name.to_owned() })?;
        self.used.insert(name.to_owned());
        Matrix::new(name, tensor, rows, cols)
    }

    /// A tensor of floats, in another format or in its own.
    fn floats(
        &mut self,
        from: &str,
        to: &str,
        shape: (usize, usize),
        format: Option<FloatFormat>,
    ) -> Result<Output<'a>, ImportError> {
        let matrix = self.matrix(from, shape)?;
        let Rows::Floats(floats) = matrix.data else {
            let file = matrix.file.to_owned();
            let why = "holds packed weights, in this place floats are needed".to_owned();
            return Err(ImportError::UnsupportedTensor { tensor: from.to_owned(), file, why });
        };
        Ok(output(to, matrix, Form::Floats(format.unwrap_or(floats.format()))))
    }

    /// A linear layer.
    fn linear(
        &mut self,
        module: &str,
        to: &str,
        shape: (usize, usize),
        permuted: Option<usize>,
    ) -> Result<Output<'a>, ImportError> {
        let mut matrix = self.matrix(&format!("{module}.weight"), shape)?;
        matrix.permuted = permuted;
        let form = self.form(module, &matrix)?;
        if let Form::Ternary { scale, ty, .. } = form {
            let name = || matrix.name.clone();
            if encode::group_bytes(ty, matrix.cols).is_none()
                || !(matrix.rows as u64).is_multiple_of(ty.row_group())
            {
                return Err(ImportError::BadType { tensor: name(), cols: matrix.cols, ty: ty.name() });
            }
            let stored = encode::stored_scale(ty, scale);
            if !stored.is_finite() || (stored == 0.0) != (scale == 0.0) {
                return Err(ImportError::BadScale { tensor: name(), scale, ty: ty.name() });
            }
            if stored != scale && !self.notes.iter().any(|note| note.starts_with("scales are rounded")) {
                let text = format!(
                    "scales are rounded to {}, that of \"{}\" by {:.1e}; the type i2_s keeps them as they are",
                    if ty == TensorType::Bf16 { "bf16" } else { "f16" },
                    printable(&matrix.name),
                    (stored / scale - 1.0).abs()
                );
                self.notes.push(text);
            }
        }
        Ok(output(to, matrix, form))
    }

    /// What becomes of a linear layer.
    fn form(&mut self, module: &str, matrix: &Matrix<'a>) -> Result<Form, ImportError> {
        let ty = self.options.target;
        let unsupported = |why: &str| ImportError::UnsupportedTensor {
            tensor: matrix.name.clone(),
            file: matrix.file.to_owned(),
            why: why.to_owned(),
        };
        let scale = self.weight_scale(module)?;
        let unconverted = self.config.is_unconverted(module);
        match (matrix.data, self.config.stored) {
            (Rows::Packed(_), Stored::Offline { inverse }) => {
                let scale = scale.ok_or_else(|| unsupported("has packed weights, but no weight_scale"))?;
                let scale = if inverse { 1.0 / scale } else { scale };
                if !scale.is_finite() {
                    return Err(unsupported("has a weight_scale of zero, by which results would be divided"));
                }
                Ok(Form::Ternary { values: Values::Codes, scale, ty })
            }
            (Rows::Packed(_), _) => Err(unsupported(
                "has packed weights, but config.json has no quantization_config for them (quant_method \"bitnet\", \
                 quantization_mode \"offline\"), so it is not known how their scale is meant",
            )),
            (Rows::Floats(floats), _) if unconverted => {
                self.kept += 1;
                Ok(Form::Floats(floats.format()))
            }
            // `AutoBitLinear` with weights that are not packed.
            (Rows::Floats(_), Stored::Offline { inverse: false }) => {
                let scale = scale.ok_or_else(|| unsupported("has no weight_scale"))?;
                let one = matrix.one_magnitude()?;
                let one = one.ok_or_else(|| unsupported("is not ternary, though config.json says so"))?;
                Ok(Form::Ternary { values: Values::Signs, scale: one * scale, ty })
            }
            (Rows::Floats(_), Stored::Offline { inverse: true }) => Err(unsupported(
                "is not packed, as config.json says that it is (quantization_mode \"offline\")",
            )),
            (Rows::Floats(_), stored) => {
                if scale.is_some() {
                    return Err(unsupported(
                        "has a weight_scale, but config.json does not say how it is meant",
                    ));
                }
                let unsaid = stored == Stored::Unsaid && !self.options.absmean;
                if unsaid && !self.config.class.always_ternary {
                    let one = matrix.one_magnitude()?.ok_or_else(|| {
                        unsupported(
                            "is not ternary, and config.json has no quantization_config; if these are master weights of \
                             a ternary model, ask for the mean magnitude (absmean)",
                        )
                    })?;
                    return Ok(Form::Ternary { values: Values::Signs, scale: one, ty });
                }
                const UNSAID: &str =
                    "config.json has no quantization_config; layers are made ternary by their mean magnitude";
                if unsaid && !self.notes.iter().any(|note| note == UNSAID) {
                    self.notes.push(UNSAID.to_owned());
                }
                let mean = matrix.mean_magnitude()?.unwrap_or_default();
                let inverse = 1.0 / (mean as f32).max(1e-5);
                Ok(Form::Ternary { values: Values::Rounded { inverse }, scale: 1.0 / inverse, ty })
            }
        }
    }

    /// The number in `weight_scale` of a module.
    fn weight_scale(&mut self, module: &str) -> Result<Option<f32>, ImportError> {
        let name = format!("{module}.weight_scale");
        let Some(tensor) = self.tensors.find(&name) else { return Ok(None) };
        self.used.insert(name.clone());
        let one = tensor.shape.iter().all(|&dim| dim == 1);
        let mut value = [0.0];
        let floats = float_format(tensor.dtype).filter(|_| one);
        let floats = floats.and_then(|f| bitnetc_frontend_gguf::decode::Floats::new(f, 1, 1, tensor.data));
        let Some(floats) = floats else {
            return Err(ImportError::WrongTensor {
                tensor: name,
                file: tensor.file.to_owned(),
                found: tensor.describe(),
                expected: "one float".to_owned(),
            });
        };
        floats.decode_row(0, &mut value);
        match value[0].is_finite() {
            true => Ok(Some(value[0])),
            false => Err(ImportError::BadWeights {
                tensor: name,
                file: tensor.file.to_owned(),
                row: 0,
                column: 0,
                found: value[0].to_string(),
            }),
        }
    }

    /// Refuses tensors that nobody asked for: each takes part in the function of another model.
    fn finish(&mut self) -> Result<(), ImportError> {
        if self.kept > 0 {
            self.notes.push(format!("{} linear layers stay floats, as config.json says", self.kept));
        }
        let left = self.tensors.names().find(|name| !self.used.contains(*name) && !names::is_derived(name));
        match left.and_then(|name| Some((name, self.tensors.find(name)?.file))) {
            None => Ok(()),
            Some((name, file)) => Err(ImportError::UnsupportedTensor {
                tensor: printable(name),
                file: file.to_owned(),
                why: "is not part of this architecture; computing without it would give wrong results"
                    .to_owned(),
            }),
        }
    }
}

fn output<'a>(name: &str, matrix: Matrix<'a>, form: Form) -> Output<'a> {
    let ty = match form {
        Form::Ternary { ty, .. } => ty,
        Form::Floats(format) => format.tensor_type(),
    };
    // The shapes are within the front-end's limits, and blocks have been checked.
    let bytes = ty.tensor_bytes(matrix.cols as u64, matrix.rows as u64).unwrap_or_default();
    Output { name: name.to_owned(), bytes, ty, content: Content::Matrix(matrix, form) }
}
