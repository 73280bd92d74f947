// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// A type as its JSON: a value of an enum is written as its text or number, and
// marks of the library's own are left out.
export type Plain<T> = 0 extends 1 & T
  ? any
  : T extends string
    ? `${T}`
    : T extends number | boolean | null | undefined
      ? T
      : T extends (infer Item)[]
        ? Plain<Item>[]
        : T extends object
          ? { [Key in keyof T as Key extends `_implements${string}` ? never : Key]: Plain<T[Key]> }
          : T;
