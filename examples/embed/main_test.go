package main

func Example() {
	main()
	// Output: Hello from 10.200.0.2 on the overlay.
}
