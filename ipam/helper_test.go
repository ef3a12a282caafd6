package ipam

func helperMain() {}
