/* What residues.py and primitives.py do with NumPy, as loops over elements: the same numbers and the same bytes.

An array of elements arrives as planes of signed 24-bit limbs with late carries, int64 of shape (limbs, *shape) and any
strides; no limb is above 2^62 in absolute value. An element is worked on as words of 64 bits, one more than p has: a
signed number in two's complement, below 2^(bits + 62) in absolute value, which `reduce` brings into [0, p). Resulting
limbs are below 2^24, and but for products canonical. No step branches on an element; what is foreign is
checked for its length before it is read.

The field is given by its `bits` and its `c`: p = 2^bits - c. Loops are compiled for each of the three fields of
field.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#ifndef __SIZEOF_INT128__
#error "these kernels need integers of 128 bits"
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "these kernels read little-endian words"
#endif

typedef uint8_t u8;
typedef uint64_t u64;
typedef int64_t i64;
typedef unsigned __int128 u128;
typedef __int128 i128;

#define ALWAYS static inline __attribute__((always_inline))
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define UNROLL PRAGMA(clang loop unroll(full))
#else
#define UNROLL PRAGMA(GCC unroll 16)
#endif

enum { LIMB = 24, MAX_WORDS = 4, MAX_LIMBS = 11, MAX_AXES = 8, SMALL_PRIME = 251, TAPES = 2, MAX_OUTSIDE = 3 };
#define LIMB_MASK ((1u << LIMB) - 1)

typedef struct {
    int bits, words, limbs, width; /* width: bytes of an element on the wire */
    u64 c;
} Field;


/* Call `loop(field, ...)` with the field as a constant, so that what depends on it is decided by the compiler. */
#define FOR_FIELD(loop, field, ...)                                                                                    \
    do {                                                                                                               \
        const Field f127_ = {127, 2, 6, 16, 1}, f191_ = {191, 3, 8, 24, 69}, f254_ = {254, 4, 11, 32, 245};            \
        if ((field).words == 2)                                                                                        \
            loop(f127_, __VA_ARGS__);                                                                                  \
        else if ((field).words == 3)                                                                                   \
            loop(f191_, __VA_ARGS__);                                                                                  \
        else                                                                                                           \
            loop(f254_, __VA_ARGS__);                                                                                  \
    } while (0)

/* ---- One element ---- */

ALWAYS i64 load_limb(const char *at)
{
    i64 limb;
    memcpy(&limb, at, sizeof limb);
    return limb;
}

ALWAYS u64 load_word(const u8 *at)
{
    u64 word;
    memcpy(&word, at, sizeof word);
    return word;
}

ALWAYS void clear(u64 *x, int words)
{
    for (int i = 0; i < words; i++)
        x[i] = 0;
}

/* x, of words + 1, from the limbs of one element. */
ALWAYS void from_limbs(const Field f, u64 *x, const char *at, Py_ssize_t plane)
{
    u128 total = 0;
    int word = 0;
    UNROLL
    for (int t = 0; t < f.limbs; t++) {
        total += (u128)(i128)load_limb(at + t * plane) << LIMB * t % 64;
        if (LIMB * (t + 1) / 64 != LIMB * t / 64) {
            x[word++] = (u64)total;
            total = (u128)((i128)total >> 64);
        }
    }
    for (; word <= f.words; word++) {
        x[word] = (u64)total;
        total = (u128)((i128)total >> 64);
    }
}

/* The digits of a number of words + 1 that is not negative and below 2^(24 limbs). */
ALWAYS void to_limbs(const Field f, const u64 *x, char *at, Py_ssize_t plane)
{
    UNROLL
    for (int t = 0; t < f.limbs; t++) {
        int word = LIMB * t / 64, shift = LIMB * t % 64;
        u64 digit = x[word] >> shift;
        if (shift > 64 - LIMB)
            digit |= x[word + 1] << (64 - shift);
        i64 limb = (i64)(digit & LIMB_MASK);
        memcpy(at + t * plane, &limb, sizeof limb);
    }
}

/* x, of `words`, from `width` bytes cut to `size` bits; 8 (width - 1) < size <= 8 width <= 64 words. */
ALWAYS void from_bytes(u64 *x, int words, const u8 *at, int width, int size)
{
    if (width < 8) {
        clear(x, words);
        memcpy(x, at, (size_t)width);
    } else {
        int full = width / 8, rest = width % 8;
        UNROLL
        for (int i = 0; i < words; i++)
            if (i < full)
                x[i] = load_word(at + 8 * i);
            else
                x[i] = i == full && rest ? load_word(at + width - 8) >> 8 * (8 - rest) : 0;
    }
    UNROLL
    for (int i = 0; i < words; i++)
        x[i] &= size >= 64 * (i + 1) ? ~(u64)0 : size <= 64 * i ? 0 : ((u64)1 << size % 64) - 1;
}

/* x += y * factor, modulo 2^(64 words); y of the same number of words. */
ALWAYS void add_multiple(u64 *x, const u64 *y, int words, int factor)
{
    if (factor >= 0) {
        u128 carry = 0;
        UNROLL
        for (int i = 0; i < words; i++) {
            carry += (u128)y[i] * (u64)factor + x[i];
            x[i] = (u64)carry;
            carry >>= 64;
        }
    } else {
        u128 borrow = 0;
        UNROLL
        for (int i = 0; i < words; i++) {
            borrow += (u128)y[i] * (u64)-factor;
            u64 taken = (u64)borrow;
            borrow = (borrow >> 64) + (x[i] < taken);
            x[i] -= taken;
        }
    }
}

/* x + value, both signed. */
ALWAYS void add_small(u64 *x, int words, i128 value)
{
    u64 high = (u64)(value >> 64), sign = (u64)(value >> 127);
    u128 carry = (u128)x[0] + (u64)value;
    x[0] = (u64)carry;
    UNROLL
    for (int i = 1; i < words; i++) {
        carry = (carry >> 64) + x[i] + (i == 1 ? high : sign);
        x[i] = (u64)carry;
    }
}

/* What is above `bits` comes back as a multiple of c. */
ALWAYS void fold(const Field f, u64 *x)
{
    int last = f.words - 1, top = f.bits - 64 * last;
    i64 above = (i64)(x[f.words] << (64 - top) | x[last] >> top);
    x[last] &= ((u64)1 << top) - 1;
    x[f.words] = 0;
    add_small(x, f.words + 1, (i128)above * (i64)f.c);
}

/* Signed x, of words + 1 and below 2^(bits + 62) in absolute value, modulo p. */
ALWAYS void reduce(const Field f, u64 *x)
{
    fold(f, x); /* above -2^83 and below 2^bits + 2^83 */
    fold(f, x); /* in [0, 2^bits) */
    u64 less[MAX_WORDS + 1];
    u128 carry = f.c;
    UNROLL
    for (int i = 0; i < f.words; i++) {
        carry += x[i];
        less[i] = (u64)carry;
        carry >>= 64;
    }
    int last = f.words - 1, top = f.bits - 64 * last;
    u64 reached = -(less[last] >> top);
    less[last] &= ((u64)1 << top) - 1;
    UNROLL
    for (int i = 0; i < f.words; i++)
        x[i] ^= (x[i] ^ less[i]) & reached;
}

/* 0 for a number of `words` below p, otherwise not. */
ALWAYS u64 excess(const Field f, const u64 *x)
{
    u128 carry = f.c;
    u64 word = 0;
    UNROLL
    for (int i = 0; i < f.words; i++) {
        carry += x[i];
        word = (u64)carry;
        carry >>= 64;
    }
    return (u64)carry | word >> (f.bits - 64 * (f.words - 1));
}

/* product, of words + 1, modulo p from its 2 words + 2 columns' worth: below 2^(2 bits + 40). */
ALWAYS void fold_product(const Field f, u64 *x, const u64 *product)
{
    int last = f.words - 1, top = f.bits - 64 * last;
    u128 carry = 0;
    UNROLL
    for (int i = 0; i <= f.words; i++) {
        u64 high = product[last + i] >> top | product[f.words + i] << (64 - top);
        u64 low = i < last ? product[i] : i == last ? product[i] & (((u64)1 << top) - 1) : 0;
        carry += (u128)high * f.c + low;
        x[i] = (u64)carry;
        carry >>= 64;
    }
    reduce(f, x);
}

ALWAYS void multiply(const Field f, u64 *x, const u64 *a, const u64 *b)
{
    u64 product[2 * MAX_WORDS + 2];
    clear(product, 2 * f.words + 2);
    UNROLL
    for (int i = 0; i < f.words; i++) {
        u128 carry = 0;
        UNROLL
        for (int j = 0; j < f.words; j++) {
            carry += (u128)a[i] * b[j] + product[i + j];
            product[i + j] = (u64)carry;
            carry >>= 64;
        }
        product[i + f.words] = (u64)carry;
    }
    fold_product(f, x, product);
}

/* x, of `to` words, becomes floor(x / 2^shift) of a number of `words` that is not negative. */
ALWAYS void shifted(u64 *result, int to, const u64 *x, int words, int shift)
{
    int place = shift / 64, bits = shift % 64;
    for (int i = 0; i < to; i++) {
        u64 low = i + place < words ? x[i + place] : 0, high = i + place + 1 < words ? x[i + place + 1] : 0;
        result[i] = bits ? low >> bits | high << (64 - bits) : low;
    }
}

/* ---- Arguments ---- */

static PyObject *numpy_empty, *int64_type;

static int take_int(PyObject *object, long low, long high, int *result)
{
    long value = PyLong_AsLong(object);
    if (value == -1 && PyErr_Occurred())
        return 0;
    if (value < low || value > high) {
        PyErr_SetString(PyExc_ValueError, "a number is out of range");
        return 0;
    }
    *result = (int)value;
    return 1;
}

static int take_field(PyObject *bits, PyObject *c, Field *field)
{
    static const Field fields[] = {{127, 2, 6, 16, 1}, {191, 3, 8, 24, 69}, {254, 4, 11, 32, 245}};
    int number, small;
    if (!take_int(bits, 1, 255, &number) || !take_int(c, 1, 255, &small))
        return 0;
    for (int i = 0; i < 3; i++)
        if (fields[i].bits == number && fields[i].c == (u64)small) {
            *field = fields[i];
            return 1;
        }
    PyErr_SetString(PyExc_ValueError, "not a field of the kernels");
    return 0;
}

static int count_arguments(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "%zd arguments, not %zd", wanted, given);
    return 0;
}

static int refuse(const char *message)
{
    PyErr_SetString(PyExc_ValueError, message);
    return 0;
}

/* Contiguous bytes of exactly this number. `view` is released by the caller, whatever the result. */
static int take_bytes(PyObject *object, Py_ssize_t size, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) < 0) {
        view->obj = NULL;
        return 0;
    }
    return view->len == size ? 1 : refuse("bytes of the wrong number");
}

/* The same for words. */
static int take_words(PyObject *object, Py_ssize_t size, Py_buffer *view)
{
    if (!take_bytes(object, size, view))
        return 0;
    return (uintptr_t)view->buf % sizeof(u64) ? refuse("words at odd places") : 1;
}

/* The product of two numbers, neither negative; -1 with an error if it is too large. */
static Py_ssize_t times(Py_ssize_t a, Py_ssize_t b)
{
    Py_ssize_t product;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) {
        refuse("an array is too large");
        return -1;
    }
    return product;
}

/* Planes of limbs; `axes` without the first. */
typedef struct {
    Py_buffer view;
    const char *base;
    Py_ssize_t plane, size, shape[MAX_AXES], strides[MAX_AXES];
    int axes;
} Planes;

static int take_planes(PyObject *object, const Field field, Planes *planes)
{
    Py_buffer *view = &planes->view;
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT) < 0) {
        view->obj = NULL;
        return 0;
    }
    const char *format = view->format;
    if (format && *format && strchr("@=<", *format))
        format++;
    if (view->itemsize != 8 || !format || (strcmp(format, "l") && strcmp(format, "q")))
        return refuse("limbs are signed integers of 64 bits");
    if (view->ndim < 1 || view->ndim > MAX_AXES + 1 || view->shape[0] != field.limbs)
        return refuse("an array with other limbs than the field has");
    planes->base = view->buf;
    planes->plane = view->strides[0];
    planes->axes = view->ndim - 1;
    planes->size = 1;
    for (int i = 0; i < planes->axes; i++) {
        planes->shape[i] = view->shape[i + 1];
        planes->strides[i] = view->strides[i + 1];
        if ((planes->size = times(planes->size, planes->shape[i])) < 0)
            return 0;
    }
    return 1;
}

static void release(Py_buffer *view)
{
    if (view->obj)
        PyBuffer_Release(view);
}

/* A new NumPy array of limbs, contiguous; its memory by `view`, which the caller releases. */
static PyObject *new_planes(const Field field, int axes, const Py_ssize_t *shape, Py_buffer *view)
{
    PyObject *sizes = PyTuple_New(axes + 1), *array = NULL;
    view->obj = NULL;
    if (!sizes)
        return NULL;
    for (int i = 0; i <= axes; i++) {
        PyObject *size = PyLong_FromSsize_t(i ? shape[i - 1] : field.limbs);
        if (!size) {
            Py_DECREF(sizes);
            return NULL;
        }
        PyTuple_SET_ITEM(sizes, i, size);
    }
    array = PyObject_CallFunctionObjArgs(numpy_empty, sizes, int64_type, NULL);
    Py_DECREF(sizes);
    if (array && PyObject_GetBuffer(array, view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0) {
        view->obj = NULL;
        Py_CLEAR(array);
    }
    return array;
}

/* ---- Loops over arrays with strides ---- */

/* The axes of one or two arrays of one shape, in row order, joined where memory allows it for both. */
typedef struct {
    int axes;
    Py_ssize_t shape[MAX_AXES], strides[2][MAX_AXES];
} Walk;

static void join_axes(Walk *walk, int axes, const Py_ssize_t *shape, const Py_ssize_t *first, const Py_ssize_t *second)
{
    walk->axes = 0;
    for (int i = 0; i < axes; i++) {
        int last = walk->axes - 1;
        if (shape[i] == 1)
            continue;
        if (last >= 0 && walk->strides[0][last] == shape[i] * first[i] &&
            walk->strides[1][last] == shape[i] * second[i]) {
            walk->shape[last] *= shape[i];
        } else {
            last = walk->axes++;
            walk->shape[last] = shape[i];
        }
        walk->strides[0][last] = first[i];
        walk->strides[1][last] = second[i];
    }
    if (!walk->axes) {
        walk->axes = 1;
        walk->shape[0] = 1;
        walk->strides[0][0] = walk->strides[1][0] = 0;
    }
}

/* Run BODY for each row of the last axis, with `a` and `b` at its first elements; not for an empty array. */
#define FOR_ROWS(walk, a, b, ...)                                                                                      \
    do {                                                                                                               \
        Py_ssize_t place_[MAX_AXES] = {0};                                                                             \
        int axis_;                                                                                                     \
        do {                                                                                                           \
            __VA_ARGS__;                                                                                               \
            for (axis_ = (walk)->axes - 2; axis_ >= 0; axis_--) {                                                      \
                (a) += (walk)->strides[0][axis_];                                                                      \
                (b) += (walk)->strides[1][axis_];                                                                      \
                if (++place_[axis_] < (walk)->shape[axis_])                                                            \
                    break;                                                                                             \
                (a) -= (walk)->shape[axis_] * (walk)->strides[0][axis_];                                               \
                (b) -= (walk)->shape[axis_] * (walk)->strides[1][axis_];                                               \
                place_[axis_] = 0;                                                                                     \
            }                                                                                                          \
        } while (axis_ >= 0);                                                                                          \
    } while (0)

ALWAYS void bytes_loop(const Field f, const Walk *walk, const char *a, Py_ssize_t plane, u8 *out)
{
    const char *b = a;
    Py_ssize_t count = walk->shape[walk->axes - 1], step = walk->strides[0][walk->axes - 1];
    FOR_ROWS(walk, a, b, for (Py_ssize_t i = 0; i < count; i++) {
        u64 x[MAX_WORDS + 1];
        from_limbs(f, x, a + i * step, plane);
        reduce(f, x);
        memcpy(out, x, (size_t)f.width);
        out += f.width;
    });
    (void)b;
}

ALWAYS void carry_loop(const Field f, const Walk *walk, const char *a, Py_ssize_t plane, char *out, Py_ssize_t size)
{
    const char *b = a;
    Py_ssize_t count = walk->shape[walk->axes - 1], step = walk->strides[0][walk->axes - 1];
    FOR_ROWS(walk, a, b, for (Py_ssize_t i = 0; i < count; i++) {
        u64 x[MAX_WORDS + 1];
        from_limbs(f, x, a + i * step, plane);
        reduce(f, x);
        to_limbs(f, x, out, 8 * size);
        out += 8;
    });
    (void)b;
}

ALWAYS void multiply_loop(const Field f, const Walk *walk, const char *a, Py_ssize_t a_plane, const char *b,
                          Py_ssize_t b_plane, char *out, Py_ssize_t size)
{
    int last = walk->axes - 1;
    Py_ssize_t count = walk->shape[last], a_step = walk->strides[0][last], b_step = walk->strides[1][last];
    FOR_ROWS(walk, a, b, for (Py_ssize_t i = 0; i < count; i++) {
        u64 x[MAX_WORDS + 1], y[MAX_WORDS + 1], product[MAX_WORDS + 1];
        from_limbs(f, x, a + i * a_step, a_plane);
        from_limbs(f, y, b + i * b_step, b_plane);
        reduce(f, x);
        reduce(f, y);
        multiply(f, product, x, y);
        to_limbs(f, product, out, 8 * size);
        out += 8;
    });
}

/* to_bytes(bits, c, limbs): the canonical numbers as bytes, in row order. */
static PyObject *to_bytes(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field;
    Planes planes = {0};
    Walk walk;
    PyObject *result = NULL;
    (void)module;
    if (!count_arguments(given, 3) || !take_field(args[0], args[1], &field))
        return NULL;
    if (take_planes(args[2], field, &planes)) {
        Py_ssize_t size = times(planes.size, field.width);
        if (size >= 0 && (result = PyBytes_FromStringAndSize(NULL, size)) && size) {
            u8 *out = (u8 *)PyBytes_AS_STRING(result);
            join_axes(&walk, planes.axes, planes.shape, planes.strides, planes.strides);
            Py_BEGIN_ALLOW_THREADS;
            FOR_FIELD(bytes_loop, field, &walk, planes.base, planes.plane, out);
            Py_END_ALLOW_THREADS;
        }
    }
    release(&planes.view);
    return result;
}

/* carried(bits, c, limbs): the canonical digits, an array of the same shape. */
static PyObject *carried(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field;
    Planes planes = {0};
    Py_buffer view = {0};
    Walk walk;
    PyObject *result = NULL;
    (void)module;
    if (!count_arguments(given, 3) || !take_field(args[0], args[1], &field))
        return NULL;
    if (take_planes(args[2], field, &planes) && (result = new_planes(field, planes.axes, planes.shape, &view)) &&
        planes.size) {
        join_axes(&walk, planes.axes, planes.shape, planes.strides, planes.strides);
        Py_BEGIN_ALLOW_THREADS;
        FOR_FIELD(carry_loop, field, &walk, planes.base, planes.plane, view.buf, planes.size);
        Py_END_ALLOW_THREADS;
    }
    release(&view);
    release(&planes.view);
    return result;
}

/* The shape and the strides of two arrays as one, by NumPy's rules; the last `kept` axes of each are left out. */
static int broadcast(const Planes *a, const Planes *b, int kept, int *axes, Py_ssize_t *shape, Py_ssize_t *first,
                     Py_ssize_t *second)
{
    *axes = (a->axes > b->axes ? a->axes : b->axes) - kept;
    for (int i = 0; i < *axes; i++) {
        int j = a->axes - kept - *axes + i, k = b->axes - kept - *axes + i;
        Py_ssize_t left = j < 0 ? 1 : a->shape[j], right = k < 0 ? 1 : b->shape[k];
        if (left != right && left != 1 && right != 1)
            return refuse("arrays do not broadcast");
        shape[i] = left == 1 ? right : left;
        first[i] = left == 1 ? 0 : a->strides[j];
        second[i] = right == 1 ? 0 : b->strides[k];
    }
    return 1;
}

/* ---- Products of matrices, and of entries where there are vectors ----

   Here an element is words + 1 digits, so few bits each that sums of products of digits need no carry: of 128 bits, or,
   where the processor multiplies like that, of 64 bits for the lower and the upper 52 bits of products. Then eight
   elements are worked on together, the lanes, and the right matrix is in blocks of as many columns. */

enum { LANES = 8, MAX_DIGITS = MAX_WORDS + 1, CHUNK = 256 };

typedef struct {
    const char *base;
    Py_ssize_t plane, rows, columns, down, along; /* strides in bytes */
} Matrix;

/* Entry (i, j) of a product goes to base + down * i + along * j. */
typedef struct {
    char *base;
    Py_ssize_t plane, rows, inner, columns, down, along;
} Product;

ALWAYS int digit_bits(const Field f)
{
    return (f.bits + f.words) / (f.words + 1);
}

/* The elements as digits, row after row. */
ALWAYS void pack(const Field f, const Matrix *m, u64 *out)
{
    const int bits = digit_bits(f);
    for (Py_ssize_t i = 0; i < m->rows; i++)
        for (Py_ssize_t j = 0; j < m->columns; j++, out += f.words + 1) {
            u64 x[MAX_WORDS + 2];
            from_limbs(f, x, m->base + i * m->down + j * m->along, m->plane);
            reduce(f, x);
            UNROLL
            for (int t = 0; t <= f.words; t++) {
                int word = bits * t / 64, shift = bits * t % 64;
                u64 digit = x[word] >> shift;
                if (shift > 64 - bits)
                    digit |= x[word + 1] << (64 - shift);
                out[t] = digit & (((u64)1 << bits) - 1);
            }
        }
}

/* An element from sums of products of digits, each below 2^126. */
ALWAYS void finish(const Field f, u64 *x, const u128 *sums)
{
    const int bits = digit_bits(f), count = 2 * f.words + 3;
    u64 digits[2 * MAX_DIGITS + 1], product[2 * MAX_WORDS + 2];
    u128 carry = 0;
    UNROLL
    for (int t = 0; t < count; t++) {
        if (t < 2 * f.words + 1)
            carry += sums[t];
        digits[t] = (u64)carry & (((u64)1 << bits) - 1);
        carry >>= bits;
    }
    clear(product, 2 * f.words + 2);
    UNROLL
    for (int t = 0; t < count; t++) {
        int word = bits * t / 64, shift = bits * t % 64;
        if (word < 2 * f.words + 2)
            product[word] |= digits[t] << shift;
        if (shift > 64 - bits && word + 1 < 2 * f.words + 2)
            product[word + 1] |= digits[t] >> (64 - shift);
    }
    fold_product(f, x, product);
}

/* left: packed rows; right: packed columns. */
ALWAYS void multiply_packed(const Field f, const u64 *left, const u64 *right, const Product *product)
{
    const int digits = f.words + 1;
    for (Py_ssize_t i = 0; i < product->rows; i++)
        for (Py_ssize_t j = 0; j < product->columns; j++) {
            const u64 *a = left + i * product->inner * digits, *b = right + j * product->inner * digits;
            u128 sums[2 * MAX_DIGITS];
            u64 x[MAX_WORDS + 1];
            UNROLL
            for (int t = 0; t < 2 * digits - 1; t++)
                sums[t] = 0;
            for (Py_ssize_t k = 0; k < product->inner; k++, a += digits, b += digits) {
                UNROLL
                for (int s = 0; s < digits; s++) {
                    UNROLL
                    for (int t = 0; t < digits; t++)
                        sums[s + t] += (u128)a[s] * b[t];
                }
            }
            finish(f, x, sums);
            to_limbs(f, x, product->base + i * product->down + j * product->along, product->plane);
        }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAS_VECTORS 1
#define VECTORS __attribute__((target("avx512f,avx512ifma")))
#define ALWAYS_VECTORS static inline __attribute__((always_inline)) VECTORS

ALWAYS_VECTORS __m512i splat(i64 x)
{
    return _mm512_set1_epi64(x);
}

ALWAYS_VECTORS __m512i low_bits(__m512i x, int bits)
{
    return _mm512_and_si512(x, splat(((i64)1 << bits) - 1));
}

ALWAYS_VECTORS __m512i plus(__m512i a, __m512i b)
{
    return _mm512_add_epi64(a, b);
}

ALWAYS_VECTORS __m512i left_by(__m512i x, int bits)
{
    return _mm512_slli_epi64(x, (unsigned)bits);
}

ALWAYS_VECTORS __m512i right_by(__m512i x, int bits)
{
    return _mm512_srai_epi64(x, (unsigned)bits);
}

/* c * x, signed, for a c of 8 bits and x below 2^55 in absolute value. */
ALWAYS_VECTORS __m512i times_c(const Field f, __m512i x)
{
    __m512i sum = _mm512_setzero_si512();
    UNROLL
    for (int i = 0; i < 8; i++)
        if (f.c >> i & 1)
            sum = plus(sum, left_by(x, i));
    return sum;
}

ALWAYS int vector_bits(const Field f)
{
    return f.words == 4 ? 51 : 48;
}

/* Up to eight elements, `step` bytes apart, as digits that are not negative and below 2^52. The limbs are at most 2^62
   in absolute value; p is added. */
ALWAYS_VECTORS void vector_digits(const Field f, const char *at, Py_ssize_t plane, Py_ssize_t step, Py_ssize_t count,
                                  __m512i *digits)
{
    const int bits = vector_bits(f), last = f.limbs - 1, top = f.bits - LIMB * last;
    const __mmask8 mask = (__mmask8)(count >= LANES ? 255 : (1 << count) - 1);
    const __m512i places = _mm512_set_epi64(7 * step, 6 * step, 5 * step, 4 * step, 3 * step, 2 * step, step, 0);
    __m512i x[MAX_LIMBS], carry = _mm512_setzero_si512();
    UNROLL
    for (int t = 0; t < f.limbs; t++) {
        const char *from = at + t * plane;
        __m512i limb = step == 8 ? _mm512_maskz_loadu_epi64(mask, from)
                                 : _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), mask, places, from, 1);
        carry = plus(carry, limb);
        x[t] = low_bits(carry, LIMB);
        carry = right_by(carry, LIMB);
    }
    __m512i above = plus(right_by(x[last], top), left_by(carry, LIMB - top));
    x[last] = plus(low_bits(x[last], top), splat((i64)1 << top));
    carry = times_c(f, plus(above, splat(-1)));
    UNROLL
    for (int t = 0; t < last; t++) {
        carry = plus(carry, x[t]);
        x[t] = low_bits(carry, LIMB);
        carry = right_by(carry, LIMB);
    }
    x[last] = plus(x[last], carry);
    UNROLL
    for (int k = 0; k <= f.words; k++) {
        __m512i digit = _mm512_setzero_si512();
        UNROLL
        for (int t = 0; t < f.limbs; t++) {
            int shift = LIMB * t - bits * k;
            if (shift >= 0 && shift < bits)
                digit = plus(digit, left_by(x[t], shift));
            else if (shift < 0 && shift > -LIMB)
                digit = plus(digit, right_by(x[t], -shift));
        }
        digits[k] = k < f.words ? low_bits(digit, bits) : digit;
    }
}

/* Rows, digits, columns. */
ALWAYS_VECTORS void vector_pack_left(const Field f, const Matrix *m, u64 *out)
{
    Py_ssize_t padded = (m->columns + LANES - 1) / LANES * LANES;
    for (Py_ssize_t i = 0; i < m->rows; i++, out += (f.words + 1) * padded)
        for (Py_ssize_t j = 0; j < m->columns; j += LANES) {
            __m512i digits[MAX_DIGITS];
            const char *at = m->base + i * m->down + j * m->along;
            vector_digits(f, at, m->plane, m->along, m->columns - j, digits);
            UNROLL
            for (int t = 0; t <= f.words; t++)
                _mm512_storeu_si512(out + t * padded + j, digits[t]);
        }
}

/* Blocks of columns, in each of them rows, digits, lanes. */
ALWAYS_VECTORS void vector_pack_right(const Field f, const Matrix *m, u64 *out)
{
    for (Py_ssize_t j = 0; j < m->columns; j += LANES)
        for (Py_ssize_t i = 0; i < m->rows; i++, out += (f.words + 1) * LANES) {
            __m512i digits[MAX_DIGITS];
            const char *at = m->base + i * m->down + j * m->along;
            vector_digits(f, at, m->plane, m->along, m->columns - j, digits);
            UNROLL
            for (int t = 0; t <= f.words; t++)
                _mm512_storeu_si512(out + t * LANES, digits[t]);
        }
}

ALWAYS_VECTORS void vector_carry(__m512i *digits, int count, int bits)
{
    __m512i carry = _mm512_setzero_si512();
    UNROLL
    for (int t = 0; t < count - 1; t++) {
        carry = plus(carry, digits[t]);
        digits[t] = low_bits(carry, bits);
        carry = right_by(carry, bits);
    }
    digits[count - 1] = plus(digits[count - 1], carry);
}

/* Limbs below 2^24 of the numbers modulo p, less than 2^40 above it, from 2 words + 3 digits of a product. */
ALWAYS_VECTORS void vector_limbs(const Field f, const __m512i *digits, __m512i *limbs)
{
    const int bits = vector_bits(f), count = 2 * f.words + 3, place = f.bits / bits, rest = f.bits % bits;
    __m512i x[MAX_DIGITS + 1];
    UNROLL
    for (int t = 0; t <= f.words + 1; t++) {
        __m512i high = _mm512_setzero_si512();
        if (place + t < count)
            high = right_by(digits[place + t], rest);
        if (place + t + 1 < count)
            high = plus(high, low_bits(left_by(digits[place + t + 1], bits - rest), bits));
        x[t] = times_c(f, high);
        if (t <= place)
            x[t] = plus(x[t], t < place ? digits[t] : low_bits(digits[t], rest));
    }
    vector_carry(x, f.words + 2, bits);
    __m512i above = right_by(x[place], rest);
    if (place < f.words + 1)
        above = plus(above, left_by(x[place + 1], bits - rest));
    x[place] = low_bits(x[place], rest);
    x[0] = plus(x[0], times_c(f, above));
    vector_carry(x, place + 1, bits);
    UNROLL
    for (int t = 0; t < f.limbs; t++) {
        __m512i limb = _mm512_setzero_si512();
        UNROLL
        for (int k = 0; k <= place; k++) {
            int shift = bits * k - LIMB * t;
            if (shift >= 0 && shift < LIMB)
                limb = plus(limb, left_by(x[k], shift));
            else if (shift < 0 && shift > -bits)
                limb = plus(limb, right_by(x[k], -shift));
        }
        limbs[t] = low_bits(limb, LIMB);
    }
}

ALWAYS_VECTORS void vector_store(const Field f, const __m512i *limbs, char *out, const Product *product, int count)
{
    u64 lanes[LANES];
    UNROLL
    for (int t = 0; t < f.limbs; t++) {
        char *to = out + t * product->plane;
        if (product->along == 8) {
            _mm512_mask_storeu_epi64(to, (__mmask8)((1 << count) - 1), limbs[t]);
        } else {
            _mm512_storeu_si512(lanes, limbs[t]);
            for (int lane = 0; lane < count; lane++)
                memcpy(to + lane * product->along, lanes + lane, sizeof *lanes);
        }
    }
}

/* Add sums of lower and of upper 52 bits of products of digits. */
ALWAYS_VECTORS void vector_add(const Field f, __m512i *sums, const __m512i *low, const __m512i *high)
{
    const int digits = f.words + 1, bits = vector_bits(f);
    UNROLL
    for (int t = 0; t < 2 * digits - 1; t++) {
        sums[t] = plus(sums[t], low[t]);
        sums[t + 1] = plus(sums[t + 1], left_by(low_bits(high[t], 2 * bits - 52), 52 - bits));
        sums[t + 2] = plus(sums[t + 2], right_by(high[t], 2 * bits - 52));
    }
    vector_carry(sums, 2 * digits + 1, bits);
}

ALWAYS_VECTORS void vector_entries_loop(const Field f, const Walk *walk, const char *a, Py_ssize_t a_plane,
                                        const char *b, Py_ssize_t b_plane, char *out, Py_ssize_t size)
{
    const int digits = f.words + 1, last = walk->axes - 1;
    const Product product = {.plane = 8 * size, .along = 8};
    Py_ssize_t count = walk->shape[last], a_step = walk->strides[0][last], b_step = walk->strides[1][last];
    FOR_ROWS(walk, a, b, for (Py_ssize_t i = 0; i < count; i += LANES) {
        __m512i x[MAX_DIGITS], y[MAX_DIGITS], limbs[MAX_LIMBS];
        __m512i low[2 * MAX_DIGITS], high[2 * MAX_DIGITS], sums[2 * MAX_DIGITS + 1];
        vector_digits(f, a + i * a_step, a_plane, a_step, count - i, x);
        vector_digits(f, b + i * b_step, b_plane, b_step, count - i, y);
        UNROLL
        for (int t = 0; t < 2 * digits + 1; t++)
            low[t < 2 * digits - 1 ? t : 0] = high[t < 2 * digits - 1 ? t : 0] = sums[t] = _mm512_setzero_si512();
        UNROLL
        for (int s = 0; s < digits; s++) {
            UNROLL
            for (int t = 0; t < digits; t++) {
                low[s + t] = _mm512_madd52lo_epu64(low[s + t], x[s], y[t]);
                high[s + t] = _mm512_madd52hi_epu64(high[s + t], x[s], y[t]);
            }
        }
        vector_add(f, sums, low, high);
        vector_limbs(f, sums, limbs);
        int here = count - i < LANES ? (int)(count - i) : LANES;
        vector_store(f, limbs, out, &product, here);
        out += 8 * here;
    });
}

ALWAYS_VECTORS void vector_multiply(const Field f, const u64 *left, const u64 *right, const Product *product)
{
    const int digits = f.words + 1;
    const Py_ssize_t inner = product->inner, padded = (inner + LANES - 1) / LANES * LANES;
    for (Py_ssize_t j = 0; j < product->columns; j += LANES, right += LANES * digits * inner)
        for (Py_ssize_t i = 0; i < product->rows; i++) {
            __m512i sums[2 * MAX_DIGITS + 1], limbs[MAX_LIMBS];
            UNROLL
            for (int t = 0; t < 2 * digits + 1; t++)
                sums[t] = _mm512_setzero_si512();
            for (Py_ssize_t first = 0; first < inner; first += CHUNK) {
                const u64 *a = left + i * padded * digits + first, *b = right + first * LANES * digits;
                Py_ssize_t count = inner - first < CHUNK ? inner - first : CHUNK;
                __m512i low[2 * MAX_DIGITS], high[2 * MAX_DIGITS];
                UNROLL
                for (int t = 0; t < 2 * digits - 1; t++)
                    low[t] = high[t] = _mm512_setzero_si512();
                for (Py_ssize_t k = 0; k < count; k++, b += LANES * digits) {
                    UNROLL
                    for (int s = 0; s < digits; s++) {
                        __m512i one = splat((i64)a[s * padded + k]);
                        UNROLL
                        for (int t = 0; t < digits; t++) {
                            __m512i other = _mm512_loadu_si512(b + t * LANES);
                            low[s + t] = _mm512_madd52lo_epu64(low[s + t], one, other);
                            high[s + t] = _mm512_madd52hi_epu64(high[s + t], one, other);
                        }
                    }
                }
                vector_add(f, sums, low, high);
            }
            vector_limbs(f, sums, limbs);
            char *out = product->base + i * product->down + j * product->along;
            vector_store(f, limbs, out, product, (int)(product->columns - j < LANES ? product->columns - j : LANES));
        }
}

static VECTORS void vector_pack(const Field field, const Matrix *left, u64 *rows, const Matrix *right, u64 *columns)
{
    if (left)
        FOR_FIELD(vector_pack_left, field, left, rows);
    if (right)
        FOR_FIELD(vector_pack_right, field, right, columns);
}

static VECTORS void vector_product(const Field field, const u64 *left, const u64 *right, const Product *product)
{
    FOR_FIELD(vector_multiply, field, left, right, product);
}

static VECTORS void vector_entries(const Field field, const Walk *walk, const char *a, Py_ssize_t a_plane,
                                   const char *b, Py_ssize_t b_plane, char *out, Py_ssize_t size)
{
    FOR_FIELD(vector_entries_loop, field, walk, a, a_plane, b, b_plane, out, size);
}

static int has_vectors(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma");
}
#else
static int has_vectors(void)
{
    return 0;
}
#endif

static int lanes = 1; /* set when the module is made */

static Matrix transposed(const Matrix m)
{
    return (Matrix){m.base, m.plane, m.columns, m.rows, m.along, m.down};
}

/* Either matrix may be NULL: it is packed already. */
static void pack_both(const Field field, const Matrix *left, u64 *rows, const Matrix *right, u64 *columns)
{
#ifdef HAS_VECTORS
    if (lanes > 1) {
        vector_pack(field, left, rows, right, columns);
        return;
    }
#endif
    if (left)
        FOR_FIELD(pack, field, left, rows);
    if (right) {
        Matrix turned = transposed(*right);
        FOR_FIELD(pack, field, &turned, columns);
    }
}

static void multiply_both(const Field field, const u64 *left, const u64 *right, const Product *product)
{
#ifdef HAS_VECTORS
    if (lanes > 1) {
        vector_product(field, left, right, product);
        return;
    }
#endif
    FOR_FIELD(multiply_packed, field, left, right, product);
}

static void multiply_entries(const Field field, const Walk *walk, const char *a, Py_ssize_t a_plane, const char *b,
                             Py_ssize_t b_plane, char *out, Py_ssize_t size)
{
#ifdef HAS_VECTORS
    if (lanes > 1) {
        vector_entries(field, walk, a, a_plane, b, b_plane, out, size);
        return;
    }
#endif
    FOR_FIELD(multiply_loop, field, walk, a, a_plane, b, b_plane, out, size);
}

/* multiply(bits, c, limbs, limbs): entry by entry; the arrays broadcast. */
static PyObject *multiply_arrays(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field;
    Planes a = {0}, b = {0};
    Py_buffer view = {0};
    Walk walk;
    PyObject *result = NULL;
    int axes;
    Py_ssize_t shape[MAX_AXES], first[MAX_AXES], second[MAX_AXES], size = 1;
    (void)module;
    if (!count_arguments(given, 4) || !take_field(args[0], args[1], &field))
        return NULL;
    if (take_planes(args[2], field, &a) && take_planes(args[3], field, &b) &&
        broadcast(&a, &b, 0, &axes, shape, first, second)) {
        for (int i = 0; i < axes && size >= 0; i++)
            size = times(size, shape[i]);
        if (size >= 0 && (result = new_planes(field, axes, shape, &view)) && size) {
            join_axes(&walk, axes, shape, first, second);
            Py_BEGIN_ALLOW_THREADS;
            multiply_entries(field, &walk, a.base, a.plane, b.base, b.plane, view.buf, size);
            Py_END_ALLOW_THREADS;
        }
    }
    release(&view);
    release(&b.view);
    release(&a.view);
    return result;
}

/* matmul(bits, c, limbs, limbs): products of the last two axes; the others broadcast. */
static PyObject *matmul(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field;
    Planes a = {0}, b = {0};
    Py_buffer view = {0};
    Walk walk;
    PyObject *result = NULL;
    u64 *left = NULL, *right = NULL;
    int axes;
    Py_ssize_t shape[MAX_AXES + 2], first[MAX_AXES], second[MAX_AXES], batch = 1, size;
    (void)module;
    if (!count_arguments(given, 4) || !take_field(args[0], args[1], &field))
        return NULL;
    if (!take_planes(args[2], field, &a) || !take_planes(args[3], field, &b))
        goto done;
    if (a.axes < 2 || b.axes < 2 || a.shape[a.axes - 1] != b.shape[b.axes - 2] ||
        a.shape[a.axes - 1] >= (Py_ssize_t)1 << 20) {
        refuse("matrices of shapes that have no product");
        goto done;
    }
    if (!broadcast(&a, &b, 2, &axes, shape, first, second))
        goto done;
    Py_ssize_t rows = a.shape[a.axes - 2], inner = a.shape[a.axes - 1], columns = b.shape[b.axes - 1];
    shape[axes] = rows;
    shape[axes + 1] = columns;
    for (int i = 0; i < axes && batch >= 0; i++)
        batch = times(batch, shape[i]);
    Py_ssize_t entries = batch < 0 ? -1 : times(rows, columns), digits = 8 * (field.words + 1);
    int turn = lanes > 1 && columns < rows && columns < LANES; /* lanes along the longer side */
    Py_ssize_t wide = turn ? rows : columns, tall = turn ? columns : rows;
    Py_ssize_t left_size = times(times(tall, inner + lanes), digits);
    Py_ssize_t right_size = times(times(wide + lanes, inner), digits);
    if (entries < 0 || (size = times(batch, entries)) < 0 || left_size < 0 || right_size < 0)
        goto done;
    left = PyMem_Malloc((size_t)left_size + 1);
    right = PyMem_Malloc((size_t)right_size + 1);
    if (!left || !right) {
        PyErr_NoMemory();
        goto done;
    }
    if (!(result = new_planes(field, axes + 2, shape, &view)) || !size)
        goto done;
    join_axes(&walk, axes, shape, first, second);
    int last = walk.axes - 1;
    Matrix x = {NULL, a.plane, rows, inner, a.strides[a.axes - 2], a.strides[a.axes - 1]};
    Matrix y = {NULL, b.plane, inner, columns, b.strides[b.axes - 2], b.strides[b.axes - 1]};
    const char *from = a.base, *with = b.base;
    char *out = view.buf;
    Py_BEGIN_ALLOW_THREADS;
    FOR_ROWS(&walk, from, with, for (Py_ssize_t i = 0; i < walk.shape[last]; i++) {
        const char *p = from + i * walk.strides[0][last], *q = with + i * walk.strides[1][last];
        int other_x = p != x.base, other_y = q != y.base; /* one matrix may serve many */
        x.base = p;
        y.base = q;
        Matrix x_turned = transposed(x), y_turned = transposed(y);
        if (turn)
            pack_both(field, other_y ? &y_turned : NULL, left, other_x ? &x_turned : NULL, right);
        else
            pack_both(field, other_x ? &x : NULL, left, other_y ? &y : NULL, right);
        Product product = {out, 8 * size, rows, inner, columns, 8 * columns, 8};
        Product product_turned = {out, 8 * size, columns, inner, rows, 8, 8 * columns};
        multiply_both(field, left, right, turn ? &product_turned : &product);
        out += 8 * entries;
    });
    Py_END_ALLOW_THREADS;
done:
    PyMem_Free(left);
    PyMem_Free(right);
    release(&view);
    release(&b.view);
    release(&a.view);
    return result;
}

/* vectors(on): whether products use the instructions for eight elements at once, where there are any; return whether
   they did. For tests. */
static PyObject *vectors(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    int on, before = lanes > 1;
    (void)module;
    if (!count_arguments(given, 1) || !take_int(args[0], 0, 1, &on))
        return NULL;
    lanes = on && has_vectors() ? LANES : 1;
    return PyBool_FromLong(before);
}

/* ---- Bytes to elements ---- */

ALWAYS void of_bytes_loop(const Field f, const u8 *data, Py_ssize_t count, int width, int size, char *out)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        u64 x[MAX_WORDS + 1];
        from_bytes(x, f.words + 1, data + i * width, width, size);
        to_limbs(f, x, out + 8 * i, 8 * count);
    }
}

ALWAYS void received_loop(const Field f, const u8 *data, Py_ssize_t count, char *out, u64 *wrong)
{
    u64 found = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        u64 x[MAX_WORDS + 1];
        from_bytes(x, f.words + 1, data + i * f.width, f.width, 8 * f.width);
        found |= excess(f, x);
        to_limbs(f, x, out + 8 * i, 8 * count);
    }
    *wrong = found;
}

/* of_bytes(bits, c, data, count, width, size): limbs of numbers of `width` bytes, cut to `size` bits. */
static PyObject *of_bytes(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field;
    Py_buffer data = {0}, view = {0};
    PyObject *result = NULL;
    int width, size;
    (void)module;
    if (!count_arguments(given, 6) || !take_field(args[0], args[1], &field))
        return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(args[3]), total;
    if ((count == -1 && PyErr_Occurred()) || !take_int(args[4], 1, 3 * field.limbs, &width) ||
        !take_int(args[5], 8 * width - 7, 8 * width, &size) || (total = times(count, width)) < 0)
        return NULL;
    if (take_bytes(args[2], total, &data) && (result = new_planes(field, 1, &count, &view))) {
        Py_BEGIN_ALLOW_THREADS;
        FOR_FIELD(of_bytes_loop, field, data.buf, count, width, size, view.buf);
        Py_END_ALLOW_THREADS;
    }
    release(&view);
    release(&data);
    return result;
}

/* received(bits, c, data, count): limbs of elements; None if one is not below p. */
static PyObject *received(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field;
    Py_buffer data = {0}, view = {0};
    PyObject *result = NULL;
    u64 wrong = 0;
    (void)module;
    if (!count_arguments(given, 4) || !take_field(args[0], args[1], &field))
        return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(args[3]), total;
    if ((count == -1 && PyErr_Occurred()) || (total = times(count, field.width)) < 0)
        return NULL;
    if (take_bytes(args[2], total, &data) && (result = new_planes(field, 1, &count, &view))) {
        Py_BEGIN_ALLOW_THREADS;
        FOR_FIELD(received_loop, field, data.buf, count, view.buf, &wrong);
        Py_END_ALLOW_THREADS;
    }
    release(&view);
    release(&data);
    if (result && wrong) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    return result;
}

/* ---- Openings under masks ---- */

/* What one pair has drawn for some elements, in this order: a mask of `size` bits for each, its rest modulo `outside`
   from 16 bytes each if that is above 1, an element for each. */
typedef struct {
    Py_buffer drawn, fractions, taken_fractions;
    const u8 *masks, *rests, *elements;
    int size, width, weight, outside;
} Drawn;

/* A uniform integer below a small number, from two words. */
ALWAYS u64 below(const u8 *at, u64 bound)
{
    u64 high = load_word(at), low = load_word(at + 8);
    if (bound == 2)
        return low & 1;
    if (bound == 3)
        return (high % 3 + low % 3) % 3;
    return (high % bound * ((0 - bound) % bound) + low % bound) % bound; /* (0 - bound) % bound: 2^64 modulo bound */
}

/* floor(x / 2^shift), x of words + 1 of f, in words + 1 of another field, as far as its limbs go. */
ALWAYS void moved(const Field f, const Field to, u64 *result, const u64 *x, int shift)
{
    shifted(result, to.words + 1, x, f.words + 1, shift);
    if (f.bits > to.bits)
        result[to.words] &= ((u64)1 << (LIMB * to.limbs - 64 * to.words)) - 1;
}

ALWAYS void mask_loop(const Field f, const Field to, const Planes *x, const u64 *offset, const Drawn *tapes, int at,
                      int shift, const u64 *added, u64 *floors, u8 *out)
{
    for (Py_ssize_t i = 0; i < x->size; i++) {
        u64 total[MAX_WORDS + 1], floor[MAX_WORDS + 1];
        from_limbs(f, total, x->base + i * x->strides[0], x->plane);
        add_multiple(total, offset, f.words + 1, 1);
        for (int j = 0; j <= to.words; j++)
            floor[j] = added[j];
        for (int k = 0; k < TAPES; k++) {
            const Drawn *tape = tapes + k;
            u64 part[MAX_WORDS + 1], element[MAX_WORDS + 1], taken[MAX_WORDS + 1];
            from_bytes(part, f.words + 1, tape->masks + i * tape->width, tape->width, tape->size);
            moved(f, to, taken, part, shift);
            from_bytes(element, f.words + 1, tape->elements + i * f.width, f.width, f.bits);
            add_multiple(part, element, f.words + 1, at);
            if (tape->outside > 1) {
                u64 rest = below(tape->rests + 16 * i, (u64)tape->outside);
                const u64 *fractions = tape->fractions.buf, *in_target = tape->taken_fractions.buf;
                add_multiple(part, fractions + rest * (f.words + 1), f.words + 1, 1);
                if (in_target)
                    add_multiple(taken, in_target + rest * (to.words + 1), to.words + 1, 1);
            }
            add_multiple(total, part, f.words + 1, tape->weight);
            add_multiple(floor, taken, to.words + 1, tape->weight);
        }
        for (int j = 0; j <= to.words; j++)
            floors[i * (to.words + 1) + j] = floor[j];
        reduce(f, total);
        memcpy(out + i * f.width, total, (size_t)f.width);
    }
}

ALWAYS void unmask_loop(const Field f, const Field to, const u8 *const data[3], const int factors[3], Py_ssize_t count,
                        int shift, const u64 *floors, char *out, u64 *wrong)
{
    u64 found = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        u64 total[MAX_WORDS + 1], opened[MAX_WORDS + 1];
        clear(total, f.words + 1);
        UNROLL
        for (int k = 0; k < 3; k++) {
            u64 share[MAX_WORDS + 1];
            from_bytes(share, f.words + 1, data[k] + i * f.width, f.width, 8 * f.width);
            found |= excess(f, share);
            add_multiple(total, share, f.words + 1, factors[k]);
        }
        reduce(f, total);
        moved(f, to, opened, total, shift);
        add_multiple(opened, floors + i * (to.words + 1), to.words + 1, -1);
        reduce(to, opened);
        to_limbs(to, opened, out + 8 * i, 8 * count);
    }
    *wrong = found;
}

/* The target is nearly always the field itself, and then a constant as well. */
ALWAYS void mask_to(const Field f, const Field to, const Planes *x, const u64 *offset, const Drawn *tapes, int at,
                    int shift, const u64 *added, u64 *floors, u8 *out)
{
    if (f.bits == to.bits)
        mask_loop(f, f, x, offset, tapes, at, shift, added, floors, out);
    else
        mask_loop(f, to, x, offset, tapes, at, shift, added, floors, out);
}

ALWAYS void unmask_to(const Field f, const Field to, const u8 *const data[3], const int factors[3], Py_ssize_t count,
                      int shift, const u64 *floors, char *out, u64 *wrong)
{
    if (f.bits == to.bits)
        unmask_loop(f, f, data, factors, count, shift, floors, out, wrong);
    else
        unmask_loop(f, to, data, factors, count, shift, floors, out, wrong);
}

enum { TAPE_ARGUMENTS = 6, MASK_ARGUMENTS = 10 };

static int take_drawn(PyObject *const *args, const Field field, const Field to, Py_ssize_t count, Drawn *tape)
{
    if (!take_int(args[1], 1, field.bits, &tape->size) || !take_int(args[2], -4, 4, &tape->weight) ||
        !take_int(args[3], 1, MAX_OUTSIDE, &tape->outside))
        return 0;
    tape->width = (tape->size + 7) / 8;
    int rests = tape->outside > 1 ? 16 : 0;
    Py_ssize_t size = times(count, tape->width + rests + field.width);
    if (size < 0 || !take_bytes(args[0], size, &tape->drawn))
        return 0;
    if (rests && !take_words(args[4], tape->outside * 8 * (field.words + 1), &tape->fractions))
        return 0;
    if (rests && args[5] != Py_None && !take_words(args[5], tape->outside * 8 * (to.words + 1), &tape->taken_fractions))
        return 0;
    tape->masks = tape->drawn.buf;
    tape->rests = tape->masks + count * tape->width;
    tape->elements = tape->rests + count * rests;
    return 1;
}

/* mask(bits, c, target's bits, c, limbs, offset, x, shift, added, floors,
        [drawn, size, weight, outside, fractions, fractions in the target] twice):
   bytes of limbs + offset + the tapes' parts; into `floors`, words of the target and one more for each element, go what
   the own parts of the mask leave after the shift, plus `added`. Numbers are words, one more than the field has. */
static PyObject *mask(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field, to;
    Planes x = {0};
    Py_buffer offset = {0}, added = {0}, floors = {0};
    Drawn tapes[TAPES] = {0};
    PyObject *result = NULL;
    int at, shift;
    (void)module;
    if (!count_arguments(given, MASK_ARGUMENTS + TAPES * TAPE_ARGUMENTS) || !take_field(args[0], args[1], &field) ||
        !take_field(args[2], args[3], &to) || !take_int(args[6], 1, 3, &at) ||
        !take_int(args[7], 0, field.bits, &shift))
        return NULL;
    if (!take_planes(args[4], field, &x))
        goto done;
    if (x.axes != 1) {
        refuse("the numbers to mask are flat");
        goto done;
    }
    if (!take_bytes(args[5], 8 * (field.words + 1), &offset) || !take_bytes(args[8], 8 * (to.words + 1), &added))
        goto done;
    if (PyObject_GetBuffer(args[9], &floors, PyBUF_WRITABLE) < 0) {
        floors.obj = NULL;
        goto done;
    }
    Py_ssize_t size = times(x.size, field.width), floors_size = times(x.size, 8 * (to.words + 1));
    if (size < 0 || floors_size < 0)
        goto done;
    if (floors.len != floors_size || (uintptr_t)floors.buf % sizeof(u64)) {
        refuse("words of the wrong number, or at odd places");
        goto done;
    }
    for (int k = 0; k < TAPES; k++)
        if (!take_drawn(args + MASK_ARGUMENTS + k * TAPE_ARGUMENTS, field, to, x.size, tapes + k))
            goto done;
    if ((result = PyBytes_FromStringAndSize(NULL, size))) {
        u8 *out = (u8 *)PyBytes_AS_STRING(result);
        u64 start[MAX_WORDS + 1], constant[MAX_WORDS + 1];
        memcpy(start, offset.buf, (size_t)offset.len);
        memcpy(constant, added.buf, (size_t)added.len);
        Py_BEGIN_ALLOW_THREADS;
        FOR_FIELD(mask_to, field, to, &x, start, tapes, at, shift, constant, floors.buf, out);
        Py_END_ALLOW_THREADS;
    }
done:
    for (int k = 0; k < TAPES; k++) {
        release(&tapes[k].drawn);
        release(&tapes[k].fractions);
        release(&tapes[k].taken_fractions);
    }
    release(&floors);
    release(&added);
    release(&offset);
    release(&x.view);
    return result;
}

/* unmask(bits, c, target's bits, c, three times bytes, three factors, count, shift, floors):
   limbs in the target of floor(sum of factor * share / 2^shift) - floor; None if a share is not below p. */
static PyObject *unmask(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field, to;
    Py_buffer shares[3] = {{0}}, floors = {0}, view = {0};
    const u8 *data[3];
    PyObject *result = NULL;
    int factors[3], shift;
    u64 wrong = 0;
    (void)module;
    if (!count_arguments(given, 13) || !take_field(args[0], args[1], &field) || !take_field(args[2], args[3], &to))
        return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(args[10]), size, floors_size;
    if ((count == -1 && PyErr_Occurred()) || (size = times(count, field.width)) < 0 ||
        (floors_size = times(count, 8 * (to.words + 1))) < 0 || !take_int(args[11], 0, field.bits, &shift))
        return NULL;
    for (int k = 0; k < 3; k++) {
        if (!take_int(args[7 + k], -4, 4, factors + k) || !take_bytes(args[4 + k], size, shares + k))
            goto done;
        data[k] = shares[k].buf;
    }
    if (take_words(args[12], floors_size, &floors) && (result = new_planes(to, 1, &count, &view))) {
        Py_BEGIN_ALLOW_THREADS;
        FOR_FIELD(unmask_to, field, to, data, factors, count, shift, floors.buf, view.buf, &wrong);
        Py_END_ALLOW_THREADS;
    }
done:
    for (int k = 0; k < 3; k++)
        release(shares + k);
    release(&floors);
    release(&view);
    if (result && wrong) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    return result;
}

/* ---- Comparison ---- */

/* small(drawn, bound, count): the first `count` uniform integers below `bound` in random bytes, by rejection. */
static PyObject *small(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_buffer drawn = {0};
    PyObject *result = NULL;
    int bound;
    (void)module;
    if (!count_arguments(given, 3) || !take_int(args[1], 1, 256, &bound))
        return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(args[2]), found = 0;
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (count < 0) {
        refuse("an array is too large");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &drawn, PyBUF_SIMPLE) < 0)
        return NULL;
    if ((result = PyBytes_FromStringAndSize(NULL, count + 1))) { /* one more: what is rejected is written, too */
        const u8 *in = drawn.buf;
        u8 *out = (u8 *)PyBytes_AS_STRING(result);
        unsigned limit = 256 / (unsigned)bound * (unsigned)bound;
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t i = 0; i < drawn.len && found < count; i++) {
            out[found] = in[i];
            found += in[i] < limit;
        }
        if (limit != (unsigned)bound)
            for (Py_ssize_t i = 0; i < found; i++)
                out[i] = (u8)(out[i] % (unsigned)bound);
        Py_END_ALLOW_THREADS;
        if (found < count) {
            refuse("too few random bytes");
            Py_CLEAR(result);
        } else {
            _PyBytes_Resize(&result, count);
        }
    }
    PyBuffer_Release(&drawn);
    return result;
}

ALWAYS void compare_mask_loop(const Field f, const Planes *x, int factor, const u8 *masks, int width, int size,
                              const u64 *offset, const u8 *blinds, int first, u8 *out)
{
    for (Py_ssize_t i = 0; i < x->size; i++) {
        u64 value[MAX_WORDS + 1], part[MAX_WORDS + 1], total[MAX_WORDS + 1];
        from_limbs(f, value, x->base + i * x->strides[0], x->plane);
        reduce(f, value);
        clear(total, f.words + 1);
        add_multiple(total, value, f.words + 1, factor);
        from_bytes(part, f.words + 1, blinds + i * f.width, f.width, f.bits);
        add_multiple(total, part, f.words + 1, first ? 1 : -1);
        if (first) {
            from_bytes(part, f.words + 1, masks + i * width, width, size);
            add_multiple(total, part, f.words + 1, 1);
            add_multiple(total, offset, f.words + 1, 1);
        }
        reduce(f, total);
        memcpy(out + i * f.width, total, (size_t)f.width);
    }
}

/* compare_mask(bits, c, limbs, factor, masks, size, offset, blinds, first): bytes of limbs * factor + mask + offset +
   blind for the first holder, of limbs * factor - blind for the second. */
static PyObject *compare_mask(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field;
    Planes x = {0};
    Py_buffer masks = {0}, offset = {0}, blinds = {0};
    PyObject *result = NULL;
    int factor, size, first;
    (void)module;
    if (!count_arguments(given, 9) || !take_field(args[0], args[1], &field) || !take_int(args[3], -4, 4, &factor) ||
        !take_int(args[5], 1, 64 * field.words, &size) || !take_int(args[8], 0, 1, &first))
        return NULL;
    if (!take_planes(args[2], field, &x))
        goto done;
    if (x.axes != 1) {
        refuse("the numbers to mask are flat");
        goto done;
    }
    int width = (size + 7) / 8;
    Py_ssize_t bytes = times(x.size, field.width), mask_bytes = times(x.size, width);
    if (bytes < 0 || mask_bytes < 0 || !take_bytes(args[4], mask_bytes, &masks) ||
        !take_bytes(args[6], 8 * (field.words + 1), &offset) || !take_bytes(args[7], bytes, &blinds))
        goto done;
    if ((result = PyBytes_FromStringAndSize(NULL, bytes))) {
        u8 *out = (u8 *)PyBytes_AS_STRING(result);
        u64 start[MAX_WORDS + 1];
        memcpy(start, offset.buf, (size_t)offset.len);
        Py_BEGIN_ALLOW_THREADS;
        FOR_FIELD(compare_mask_loop, field, &x, factor, masks.buf, width, size, start, blinds.buf, first, out);
        Py_END_ALLOW_THREADS;
    }
done:
    release(&blinds);
    release(&offset);
    release(&masks);
    release(&x.view);
    return result;
}

ALWAYS void compare_open_loop(const Field f, const Planes *x, int factor, const u8 *one, const u8 *other, u8 *out,
                              u64 *wrong)
{
    u64 found = 0;
    for (Py_ssize_t i = 0; i < x->size; i++) {
        u64 value[MAX_WORDS + 1], part[MAX_WORDS + 1], total[MAX_WORDS + 1];
        from_limbs(f, value, x->base + i * x->strides[0], x->plane);
        reduce(f, value);
        from_bytes(total, f.words + 1, one + i * f.width, f.width, 8 * f.width);
        from_bytes(part, f.words + 1, other + i * f.width, f.width, 8 * f.width);
        found |= excess(f, total) | excess(f, part);
        add_multiple(total, part, f.words + 1, 1);
        add_multiple(total, value, f.words + 1, factor);
        reduce(f, total);
        memcpy(out + i * f.width, total, (size_t)f.width);
    }
    *wrong = found;
}

/* compare_open(bits, c, limbs, factor, bytes, bytes): bytes of limbs * factor + both; None if one is not below p. */
static PyObject *compare_open(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Field field;
    Planes x = {0};
    Py_buffer one = {0}, other = {0};
    PyObject *result = NULL;
    int factor;
    u64 wrong = 0;
    (void)module;
    if (!count_arguments(given, 6) || !take_field(args[0], args[1], &field) || !take_int(args[3], -4, 4, &factor))
        return NULL;
    if (!take_planes(args[2], field, &x))
        goto done;
    if (x.axes != 1) {
        refuse("the numbers to open are flat");
        goto done;
    }
    Py_ssize_t bytes = times(x.size, field.width);
    if (bytes < 0 || !take_bytes(args[4], bytes, &one) || !take_bytes(args[5], bytes, &other))
        goto done;
    if ((result = PyBytes_FromStringAndSize(NULL, bytes))) {
        u8 *out = (u8 *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS;
        FOR_FIELD(compare_open_loop, field, &x, factor, one.buf, other.buf, out, &wrong);
        Py_END_ALLOW_THREADS;
    }
done:
    release(&other);
    release(&one);
    release(&x.view);
    if (result && wrong) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    return result;
}

ALWAYS int bit_of(const u8 *number, int place)
{
    return number[place / 8] >> place % 8 & 1;
}

/* The arguments that say of how many numbers of how many bytes the bits are, and how many of them. */
static int take_rows(PyObject *const *args, Py_ssize_t *count, int *width, int *bits, Py_ssize_t *size)
{
    *count = PyLong_AsSsize_t(args[0]);
    if (*count == -1 && PyErr_Occurred())
        return 0;
    if (!take_int(args[1], 1, 256, width) || !take_int(args[2], 0, SMALL_PRIME - 2, bits))
        return 0;
    if (*bits > 8 * *width)
        return refuse("more bits than the numbers have");
    return (*size = times(*count, *width)) >= 0;
}

/* bit(data, count, width, place): that bit of each number, a byte each. */
static PyObject *bit(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_buffer data = {0};
    PyObject *result = NULL;
    Py_ssize_t count, size;
    int width, place;
    (void)module;
    if (!count_arguments(given, 4) || !take_rows(args + 1, &count, &width, &place, &size))
        return NULL;
    if (place == 8 * width) {
        refuse("more bits than the numbers have");
        return NULL;
    }
    if (take_bytes(args[0], size, &data) && (result = PyBytes_FromStringAndSize(NULL, count))) {
        const u8 *in = data.buf;
        u8 *out = (u8 *)PyBytes_AS_STRING(result);
        for (Py_ssize_t i = 0; i < count; i++)
            out[i] = (u8)bit_of(in + i * width, place);
    }
    release(&data);
    return result;
}

/* bit_shares(data, count, width, bits, pad): the lowest bits of each number, highest first, less a pad, modulo the
   small prime. */
static PyObject *bit_shares(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_buffer data = {0}, pad = {0};
    PyObject *result = NULL;
    Py_ssize_t count, size, total;
    int width, bits;
    (void)module;
    if (!count_arguments(given, 5) || !take_rows(args + 1, &count, &width, &bits, &size) ||
        (total = times(count, bits)) < 0)
        return NULL;
    if (take_bytes(args[0], size, &data) && take_bytes(args[4], total, &pad) &&
        (result = PyBytes_FromStringAndSize(NULL, total))) {
        u8 *out = (u8 *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t i = 0; i < count; i++) {
            const u8 *number = (const u8 *)data.buf + i * width, *less = (const u8 *)pad.buf + i * bits;
            u8 *to = out + i * bits;
            for (int j = 0; j < bits; j++)
                to[j] = (u8)((SMALL_PRIME * 2u + (unsigned)bit_of(number, bits - 1 - j) - less[j]) % SMALL_PRIME);
        }
        Py_END_ALLOW_THREADS;
    }
    release(&pad);
    release(&data);
    return result;
}

/* blinded(shares, masks, count, width, bits, coins, factors, zeros, places, first): what a holder sends to the helper
   for each comparison, bits + 1 numbers modulo the small prime. */
static PyObject *blinded(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_buffer shares = {0}, masks = {0}, coins = {0}, factors = {0}, zeros = {0}, places = {0};
    PyObject *result = NULL;
    Py_ssize_t count, size, share_size, total, place_size;
    int width, bits, first;
    (void)module;
    if (!count_arguments(given, 10) || !take_rows(args + 2, &count, &width, &bits, &size) ||
        !take_int(args[9], 0, 1, &first) || (share_size = times(count, bits)) < 0 ||
        (total = times(count, bits + 1)) < 0 || (place_size = times(count, 16)) < 0)
        return NULL;
    if (take_bytes(args[0], share_size, &shares) && take_bytes(args[1], size, &masks) &&
        take_bytes(args[5], count, &coins) && take_bytes(args[6], total, &factors) &&
        take_bytes(args[7], total, &zeros) && take_bytes(args[8], place_size, &places) &&
        (result = PyBytes_FromStringAndSize(NULL, total))) {
        u8 *to = (u8 *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t i = 0; i < count; i++, to += bits + 1) {
            const u8 *share = (const u8 *)shares.buf + i * bits, *mask = (const u8 *)masks.buf + i * width;
            const u8 *factor = (const u8 *)factors.buf + i * (bits + 1), *zero = (const u8 *)zeros.buf + i * (bits + 1);
            int coin = ((const u8 *)coins.buf)[i] & 1, side = 1 - 2 * coin, above = 0;
            int numbers[SMALL_PRIME], set[SMALL_PRIME];
            u8 row[SMALL_PRIME];
            for (int j = 0; j < bits; j++)
                set[j] = bit_of(mask, bits - 1 - j);
            for (int j = 0; j < bits; j++) {
                int own = first ? set[j] : 0; /* a constant enters through one of the two shares */
                numbers[j] = (share[j] - own) * side + above + first;
                above += (1 - 2 * set[j]) * share[j] + own;
            }
            numbers[bits] = coin ? above : first;
            for (int j = 0; j <= bits; j++) {
                int number = numbers[j] * (factor[j] + 1) + (first ? zero[j] : -zero[j]);
                row[j] = (u8)((unsigned)(number + (SMALL_PRIME << 20)) % SMALL_PRIME);
            }
            size_t place = below((const u8 *)places.buf + 16 * i, (u64)bits + 1), rest = (size_t)bits + 1 - place;
            memcpy(to, row + place, rest);
            memcpy(to + rest, row, place);
        }
        Py_END_ALLOW_THREADS;
    }
    release(&places);
    release(&zeros);
    release(&factors);
    release(&coins);
    release(&masks);
    release(&shares);
    return result;
}

/* found(bytes, bytes, count, columns): for each row, a byte, whether the sum of two bytes is 0 or the small prime. */
static PyObject *found(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_buffer one = {0}, other = {0};
    PyObject *result = NULL;
    int columns;
    (void)module;
    if (!count_arguments(given, 4) || !take_int(args[3], 1, 256, &columns))
        return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(args[2]), total;
    if ((count == -1 && PyErr_Occurred()) || (total = times(count, columns)) < 0)
        return NULL;
    if (take_bytes(args[0], total, &one) && take_bytes(args[1], total, &other) &&
        (result = PyBytes_FromStringAndSize(NULL, count))) {
        const u8 *a = one.buf, *b = other.buf;
        u8 *out = (u8 *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t i = 0; i < count; i++, a += columns, b += columns) {
            u8 any = 0;
            for (int j = 0; j < columns; j++)
                any |= (u8)((a[j] + b[j] == 0) | (a[j] + b[j] == SMALL_PRIME));
            out[i] = any;
        }
        Py_END_ALLOW_THREADS;
    }
    release(&other);
    release(&one);
    return result;
}

/* ---- The module ---- */

#define METHOD(name, function) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}

enum { VERSION = 1 }; /* that of kernels.py, which leaves another one alone */

static PyMethodDef methods[] = {
    METHOD("vectors", vectors),
    METHOD("to_bytes", to_bytes),
    METHOD("carried", carried),
    METHOD("multiply", multiply_arrays),
    METHOD("matmul", matmul),
    METHOD("of_bytes", of_bytes),
    METHOD("received", received),
    METHOD("mask", mask),
    METHOD("unmask", unmask),
    METHOD("small", small),
    METHOD("compare_mask", compare_mask),
    METHOD("compare_open", compare_open),
    METHOD("bit", bit),
    METHOD("bit_shares", bit_shares),
    METHOD("blinded", blinded),
    METHOD("found", found),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
    PyObject *numpy = PyImport_ImportModule("numpy");
    if (!numpy)
        return NULL;
    lanes = has_vectors() ? LANES : 1;
    numpy_empty = PyObject_GetAttrString(numpy, "empty");
    int64_type = PyObject_GetAttrString(numpy, "int64");
    Py_DECREF(numpy);
    PyObject *module = numpy_empty && int64_type ? PyModule_Create(&definition) : NULL;
    if (module && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
