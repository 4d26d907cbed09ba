package main

import "context"

func runLogins(ctx context.Context, args []string) error { return nil }
func runWrites(ctx context.Context, args []string) error { return nil }
func runScale(ctx context.Context, args []string) error  { return nil }
